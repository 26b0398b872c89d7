"""The claims of the four papers, each a file written before its runs: loaded, run, judged, reported."""
