"""The site of the docs opened from its file, without a server and a network: `make test-ui`."""

import pytest

from tests.results import PROJECT


@pytest.mark.parametrize("page_of_site", ["index.html", "tour/experts.html"])
def test_the_search_of_a_page_that_is_a_file_finds_what_is_looked_for(page, page_of_site):
    asked = []
    page.on("request", lambda request: asked.append(request.url))
    page.goto(f"{(PROJECT / 'site' / page_of_site).as_uri()}?q=resume")
    found = page.locator(".md-search-result__item .md-search-result__link").first
    found.wait_for(state="attached", timeout=20_000)
    assert "/runs.html" in found.get_attribute("href")
    assert "matching documents" in page.locator(".md-search-result__meta").inner_text()
    assert {url.partition(":")[0] for url in asked} <= {"file", "data", "about"}
