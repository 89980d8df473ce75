# Everything runs in .venv, which the first target to need it creates.
PYTHON ?= python3
BIN := .venv/bin
# On Linux the plain mlx package has no backend; on macOS it has.
comma := ,
BACKEND := $(if $(filter Linux,$(shell uname -s)),cpu$(comma))
STAMP := .venv/.installed

.SECONDARY:
.PHONY: demo griffin-lim train test fuzz leak test-metal sweep guarantee lint figures gallery docs
.PHONY: docs-serve distributed bench bench-cuda models clean

# MLX's Linux wheel brings a slow reference BLAS; OpenBLAS is preloaded where Debian has put it.
OPENBLAS := $(firstword $(wildcard /usr/lib/*/openblas-pthread/libblas.so.3))
PRELOAD := $(if $(OPENBLAS),LD_PRELOAD=$(OPENBLAS))

demo: $(STAMP)-examples ## mel to waveform on the bundled speech clip, through polyconv and natively
	$(PRELOAD) $(BIN)/python examples/vocoder_upsampler.py

griffin-lim: $(STAMP)-examples ## speech to mel and back without weights, by an inverse STFT in one call
	$(PRELOAD) $(BIN)/python examples/istft_vocoder.py

train: $(STAMP)-examples ## trains a 4x speech upsampler
	$(PRELOAD) $(BIN)/python examples/train_upsampler.py

LENGTH ?= --seconds 60
distributed: $(STAMP)-examples ## a minute of mel by one process and by two, or LENGTH="--hours 1"; figures into build/distributed
	$(PRELOAD) $(BIN)/python docs/benchmarks/distributed.py $(LENGTH)

test: $(STAMP)-test ## the whole suite
	$(BIN)/python -m pytest -q

sweep: $(STAMP)-test ## 20,000 generated cases per method against the float64 reference, also planned for a Mac
	$(BIN)/python tests/sweep.py --cases 20000
	$(BIN)/python tests/sweep.py --cases 20000 --device m4-max

FUZZ_SECONDS ?= 20

fuzz: $(STAMP)-test ## odd input to every public name, file and command, FUZZ_SECONDS each
	$(BIN)/python tests/fuzz.py --seconds $(FUZZ_SECONDS) --seed $(shell date +%s)

leak: $(STAMP)-test ## a million calls of every kind: does anything grow?
	$(BIN)/python tests/leak.py

test-metal: $(STAMP)-test ## on a Mac: parity, memory and hazards on its GPU, with a report to paste
	$(BIN)/python -m pytest -q tests/metal

guarantee: $(STAMP)-test ## traces 10,000 random calls and every real layer: what Metal would run
	$(BIN)/python tests/test_guarantee.py --cases 10000

lint: $(STAMP)-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

BENCH := $(PRELOAD) OMP_NUM_THREADS=2 $(BIN)/python -m polyconv bench
RIVALS := --rivals torch,onnxruntime,jax,upfirdn
BENCHMARKS := docs/benchmarks

models: $(STAMP)-models ## models of mlx-audio, natively, converted and patched; writes docs/benchmarks/models.json
	$(PRELOAD) PYTHONPATH=. $(BIN)/python $(BENCHMARKS)/models.py

bench-cuda: ## on an NVIDIA GPU, with MLX's CUDA backend and PyTorch in $(PYTHON)
	PYTHONPATH=. $(PYTHON) docs/benchmarks/cuda.py

bench: $(STAMP)-bench ## times polyconv against other frameworks, and writes docs/benchmarks and the README's table
	$(BENCH) --cases $(BENCHMARKS)/cases.toml $(RIVALS) --out $(BENCHMARKS)/rivals.json
	$(BENCH) --cases $(BENCHMARKS)/lengths.toml $(RIVALS) --seconds 2 --out $(BENCHMARKS)/lengths.json
	$(BENCH) --cases tests/data/real_layers.csv --rivals torch,onnxruntime --no-native --methods '' \
		--rounds 2 --out $(BENCHMARKS)/real_layers.json
	$(BENCH) conv_transpose1d --input 1,1024,256 --weight 128,16,256 --stride 8 --padding 4 \
		--new-lengths --rivals torch --out $(BENCHMARKS)/new_lengths.json
	$(BENCH) --cases $(BENCHMARKS)/cases.toml --train --rivals torch,jax --seconds 2 \
		--out $(BENCHMARKS)/training.json
	$(BIN)/python $(BENCHMARKS)/page.py

figures: $(STAMP)-examples ## draws docs/figures
	$(BIN)/python docs/figures/draw.py

gallery: $(STAMP)-examples ## runs the examples, and writes the pictures of docs/gallery.md
	$(PRELOAD) $(BIN)/python docs/gallery.py

docs: $(STAMP)-docs ## the site, into build/site; a warning is an error
	$(BIN)/python -m sphinx --builder html --fail-on-warning --keep-going --quiet \
		--fresh-env --doctree-dir build/doctrees docs build/site

docs-serve: docs ## the site, at http://127.0.0.1:8000
	$(BIN)/python -m http.server --bind 127.0.0.1 --directory build/site 8000

$(BIN)/python:
	$(PYTHON) -m venv .venv

$(STAMP)-%: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[$(BACKEND)$*]'
	@touch $@

clean:
	rm -rf .venv build
