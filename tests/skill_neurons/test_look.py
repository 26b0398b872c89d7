"""What the page of skill neurons says equals the tables, names a planted neuron, and names none where there is none."""

import csv
import json

import pytest
import torch
from omegaconf import OmegaConf

from lightning_modules.look import page
from lightning_modules.look.finished import Finished
from lightning_modules.runtime.study import Desk
from lightning_modules.skill_neurons import look
from lightning_modules.skill_neurons import portraits as drawn
from lightning_modules.skill_neurons.perturb import Perturb
from lightning_modules.skill_neurons.predictivity import Counts, permuted_labels, predictivity_RLF
from lightning_modules.skill_neurons.significance import Signs, _packed, of_labellings
from lightning_modules.skill_neurons.single_neurons import neuron_accuracy, read
from lightning_modules.skill_neurons.studies import SkillNeurons
from tests.prompt import toy

LAYERS, TOKENS, WIDTH, VAL, TEST = 2, 3, 13, 80, 96
EVIL = "<script>document.title='run'</script>"
PLANTED = (1, 7)


def table_of_noise(seed, *, classes=2, planted=False):
    """A made-up task: activations [N, L, P, F] of validation and test, labels, texts. planted: one neuron, at one token,
    lies above its mean for class 1 and below for class 0."""
    draw = torch.Generator().manual_seed(seed)
    values, labels, texts = {}, {}, []
    for split, size in (("val", VAL), ("test", TEST)):
        values[split] = torch.randn(size, LAYERS, TOKENS, WIDTH, generator=draw)
        labels[split] = torch.arange(size) % classes
        if planted:
            values[split][:, PLANTED[0], 2, PLANTED[1]] = labels[split] + 0.5 * torch.rand(size, generator=draw) - 0.75
    for n, label in enumerate(labels["test"].tolist()):
        texts.append(f"{EVIL if n == 1 else 'so'} {('bad', 'good', 'fair', 'odd')[label]} a film {n % 7}")
    return values, labels, texts


def task(name, *, seed=0, classes=2, planted=False, p_values=199):
    values, labels, texts = table_of_noise(seed, classes=classes, planted=planted)
    bits = values["val"] > 0
    rows = permuted_labels(labels["val"], permutations=3, seed=seed)
    one_hot = torch.nn.functional.one_hot(rows, classes)
    above = torch.einsum("rnc,nlpf->rclpf", one_hot.float(), bits.float())
    found = of_labellings(
        [Signs(torch.stack([_packed(bits[:, layer]) for layer in range(LAYERS)]), WIDTH)],
        labels["val"],
        classes=classes,
        permutations=p_values,
        seed=seed,
    )
    data = drawn.Labelled(("bad", "good", "fair", "odd")[:classes], labels["val"], labels["test"], texts)

    def read(neurons):
        kept = {s: torch.stack([v[:, layer, :, unit] for layer, unit in neurons], 1) for s, v in values.items()}
        return drawn.Readings(kept["val"], kept["test"], torch.zeros(len(neurons), TOKENS))

    return look.Task(name, "mood", predictivity_RLF(Counts(above, one_hot.sum(1))), found, data, read)


def made(*, planted=True, text=True, p_values=199, seed=0):
    tasks = [
        task("first", seed=seed, p_values=p_values),
        task("second", seed=seed + 1, planted=planted, p_values=p_values),
        task("four", seed=seed + 2, classes=4, p_values=p_values),
    ]
    rows = [
        {"task": t.name, "kind": kind, "neurons": arm, "share": share, "accuracy": 0.9 - share * hurt - trial / 100}
        for t in tasks[:2]
        for kind in ("gaussian", "zero")
        for arm, hurt in (("skill neurons", 2), ("random neurons", 1))
        for share in (0.0, 0.1, 0.2)
        for trial in (0, 1)
    ]
    done = look.done_to("perturbation", rows)
    return look.neurons_page(name="one", tasks=tasks, p_values=p_values, text=text, done=done), tasks


def test_the_planted_neuron_is_the_first_row():
    found, _ = made()
    assert found["verdict"].startswith("In 1 of 3 tasks neurons tell the classes apart")
    assert found["verdict"].endswith(": 1 neuron in all.")
    first = found["standing_out"][0]
    assert first == {"task": 1, "neuron": "L1.N7", "predictivity": 1.0, "family": pytest.approx(1 / 200), "passing": 1}
    assert [row["passing"] for row in found["standing_out"]] == [1, 0, 0]
    portrait = found["tasks"][1]["portraits"][0]
    assert (portrait["token"], portrait["test"]) == (2, 1.0)
    assert {row["class"] for row in portrait["highest"]} == {1}
    assert {row["class"] for row in portrait["lowest"]} == {0}
    assert portrait["drive_up"][0]["word"] == "good"
    assert portrait["drive_down"][0]["word"] == "bad"
    # In another task it is one of many.
    assert found["tasks"][1]["elsewhere"]["rank"][0][1] == 1
    assert found["tasks"][1]["elsewhere"]["rank"][0][0] > 1


@pytest.mark.slow
def test_where_no_neuron_tells_classes_the_page_says_so():
    """Of thirty pages of noise about one in twenty may name something."""
    named = [made(planted=False, seed=10 * n)[0] for n in range(30)]
    saying = [page["verdict"].startswith("No neuron of any task tells its classes apart") for page in named]
    assert sum(saying) >= 26
    words = [p[side] for page in named for t in page["tasks"] for p in t["portraits"] for side in look.TEXTS[2:]]
    assert sum(bool(w) for w in words) <= 4


def test_too_few_labellings_are_said():
    assert "study.p_values=59 is the least that can" in made(p_values=39)[0]["verdict"]
    assert look.verdict([0, 0, 0], p_values=59).startswith("No neuron")
    assert "asked for no p-values" in look.verdict([None], p_values=0)


def test_numbers_are_those_of_the_tables():
    found, tasks = made()
    for shown, given in zip(found["tasks"], tasks, strict=True):
        pred = given.pred_RLF[0]
        assert [row["predictivity"] for row in shown["top"]] == pred.flatten().sort(descending=True).values[
            :10
        ].tolist()
        for k, row in enumerate(shown["top"]):
            place = row["layer"], row["unit"]
            assert row["own"] == float(given.significance.own_LF[place])
            assert row["family"] == float(given.significance.family_LF[place])
            assert row["neuron"] == f"L{place[0]}.N{place[1]}"
            counts = torch.tensor(shown["portraits"][k]["counts"])
            assert counts.sum(1).tolist() == torch.bincount(given.data.test_labels).tolist()
            others = [float(t.pred_RLF[0][place]) for t in tasks]
            assert shown["elsewhere"]["predictivity"][k] == pytest.approx(others, abs=1e-4)
        assert shown["null"] == pytest.approx(float(given.pred_RLF[1:].flatten(1).amax(1).mean()))
    rows = {tuple(row[:3]): row[3] for row in found["done"]["first"]["rows"]}
    assert rows["zero", "skill neurons", 0.2] == pytest.approx(0.9 - 0.4 - 0.005)
    assert "four" not in found["done"]


def test_no_word_is_left_where_text_is_off():
    found, _ = made()
    bare = look.without_text(found)
    for one in (bare, made(text=False)[0]):
        told = json.dumps(one)
        assert not any(word in told for word in ("good", "bad", "fair", "script", "film"))
        assert one["tasks"][1]["classes"] == ["class 0", "class 1"]
    assert bare == made(text=False)[0]


def test_text_is_never_html_and_the_data_come_back(tmp_path):
    found, _ = made()
    assert EVIL in json.dumps(found)
    path = page.write(tmp_path / "look.html", kind=look.KIND, title=look.TITLE, data={"runs": [found]})
    assert EVIL not in path.read_text()
    assert page.read(path)["runs"] == [json.loads(json.dumps(found, allow_nan=False))]


def test_a_number_that_is_none_leaves_the_page_readable(tmp_path):
    """A study of one skill has no neurons of others; a browser's JSON has no NaN."""
    found, _ = made()
    name = found["tasks"][0]["task"]
    done = {"table": "perturbation", "title": "noise", "columns": ["accuracy"], "rows": [[float("nan")], [0.5]]}
    found |= {"done": {name: done}}
    path = page.write(tmp_path / "look.html", kind=look.KIND, title=look.TITLE, data={"runs": [found]})
    (again,) = page.read(path)["runs"]
    assert again["done"][name]["rows"] == [[None], [0.5]]
    assert again["tasks"] == json.loads(json.dumps(found["tasks"]))


@pytest.fixture
def study(tmp_path):
    def make(kind=SkillNeurons, **own):
        tasks = ["sentiment_film", "topic_four"]
        return kind(prompts=toy.prompts(tmp_path / "cache"), tasks=tasks, trials=2, permutations=2, **own)

    return make


@pytest.mark.slow
def test_a_study_makes_its_page_and_the_test_accuracy_is_its_own(study, tmp_path):
    made = study(p_values=19)
    made.run(Desk(folder=tmp_path / "run"))
    (found,) = page.read(tmp_path / "run" / "look.html")["runs"]
    first = found["tasks"][0]
    data, prompt = made.prompts.data("sentiment_film"), made.tuned("sentiment_film")[:1]
    for row, portrait in zip(first["top"][:3], first["portraits"], strict=False):
        reads = [read(made.backbone, data, one, layer=row["layer"], unit=row["unit"]) for one in prompt]
        labels = {f"{split}_labels": data.examples(split).labels for split in ("val", "test")}
        alone = neuron_accuracy(reads, **labels)
        assert portrait["test"] == pytest.approx(alone)
    with open(tmp_path / "run" / "tables" / "best_neurons.csv") as file:
        best = next(csv.DictReader(file))
    assert (best["best neuron"], float(best["val"])) == (first["top"][0]["neuron"], first["top"][0]["predictivity"])
    assert int(best["neurons"]) == first["neurons"]
    assert found["tasks"][1]["portraits"][0]["test"] is None


def finished(tmp_path, study, monkeypatch, *, text=True, own=None):
    """A finished run whose config builds `study`."""
    import hydra.utils

    monkeypatch.setattr(hydra.utils, "instantiate", lambda cfg: study)

    def artifact(name):
        if not (tmp_path / "run" / name).exists():
            raise ValueError(f"the run kept no {name}")
        return tmp_path / "run" / name

    return Finished("one", OmegaConf.create({"study": {}}), {}, artifact, text, own)


@pytest.mark.slow
def test_a_finished_study_makes_its_page_again(study, tmp_path, monkeypatch):
    made = study(Perturb, shares=[0.0, 0.1], draws=2, examples=20)
    made.run(Desk(folder=tmp_path / "run"))
    (kept,) = page.read(tmp_path / "run" / "look.html")["runs"]
    assert look.page(finished(tmp_path, made, monkeypatch)) == kept
    bare = look.page(finished(tmp_path, made, monkeypatch, text=False))
    assert "highest" in kept["tasks"][0]["portraits"][0]
    assert "highest" not in bare["tasks"][0]["portraits"][0]
    # A run of before has its prompts and tables, and no page.
    (tmp_path / "run" / "look.html").unlink()
    assert json.loads(json.dumps(look.page(finished(tmp_path, made, monkeypatch)))) == kept
    with pytest.raises(ValueError, match="look.text=.* works with runs of moe alone"):
        look.page(finished(tmp_path, made, monkeypatch, own=tmp_path / "my.txt"))
    other = Perturb(prompts=toy.prompts(tmp_path / "empty"), tasks=["sentiment_film"], trials=1)
    with pytest.raises(ValueError, match="of what its page is made from are not kept here"):
        look.page(finished(tmp_path, other, monkeypatch))
