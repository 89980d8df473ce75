"""The tests, by the wing of the package that they are about: `tests/<wing>/test_<module>.py`.

* whole: what is about all wings at once, as threads, processes, hostile input and layering;
* campaigns: long runs of random input, which `make` starts, and a short run of some as a test;
* examples: the programs of `examples`;
* docs: the pages, the figures and the Makefile;
* on_metal: what needs the GPU of a Mac, by `make test-metal`;
* support: what tests share, as the float64 reference, cases, traces and threads;
* data: what was recorded.
"""
