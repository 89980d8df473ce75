# Everything runs in .venv, which the first target to need it creates.
PYTHON ?= python3
BIN := .venv/bin
# On Linux the plain mlx package has no backend; on macOS it has.
comma := ,
BACKEND := $(if $(filter Linux,$(shell uname -s)),cpu$(comma))
STAMP := .venv/.installed
# `polyconv run` starts Python on a fast BLAS, since MLX's Linux wheel brings a slow one along.
RUN := $(BIN)/polyconv run

.SECONDARY:
.PHONY: help environment demo griffin-lim train test test-slow test-full test-mac test-nvidia test-metal test-gpu fuzz leak sweep guarantee
.PHONY: dist lint figures gallery docs docs-serve distributed bench bench-models bench-call bench-cuda metal-fit models stream-models clean

help: ## these lines
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "%-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: $(STAMP)-examples ## mel to waveform on the bundled speech clip, through polyconv and natively
	$(RUN) examples/vocoder_upsampler.py

griffin-lim: $(STAMP)-examples ## speech to mel and back without weights, by an inverse STFT in one call
	$(RUN) examples/istft_vocoder.py

train: $(STAMP)-examples ## trains a 4x speech upsampler
	$(RUN) examples/train_upsampler.py

LENGTH ?= --seconds 60
distributed: $(STAMP)-examples ## a minute of mel by one process and by two, or LENGTH="--hours 1"; figures into build/distributed
	$(RUN) docs/benchmarks/distributed.py $(LENGTH)

# Two processes of tests, each with whole files and one thread of BLAS. What fills memory runs alone.
PYTEST := OPENBLAS_NUM_THREADS=1 $(RUN) --quiet --cache-limit 0 -m pytest -q
TWO := -n 2 --dist loadfile

test: $(STAMP)-test ## the suite, without what is long or fills memory
	$(PYTEST) $(TWO) -m "not slow and not memory"

test-slow: $(STAMP)-test ## what `make test` leaves out
	$(PYTEST) $(TWO) -m "slow and not memory"
	$(PYTEST) -m memory

test-full: test test-slow ## the whole suite

test-mac: $(STAMP)-test ## the suite as if on a Mac, of two descriptions, while all runs on the CPU
	POLYCONV_EMULATE=m2 PYTHONPATH=. $(PYTEST) $(TWO) -m "not slow and not memory" -p tests.support.emulated_gpu
	POLYCONV_EMULATE=paravirtual PYTHONPATH=. $(PYTEST) $(TWO) -m "not slow and not memory" -p tests.support.emulated_gpu

test-nvidia: $(STAMP)-test ## the suite as if on an NVIDIA GPU, while all runs on the CPU
	POLYCONV_EMULATE=h200 PYTHONPATH=. $(PYTEST) $(TWO) -m "not slow and not memory" -p tests.support.emulated_gpu

sweep: $(STAMP)-test ## 20,000 generated cases per method against the float64 reference, also planned for a Mac
	$(BIN)/python -m tests.campaigns.sweep --cases 20000
	$(BIN)/python -m tests.campaigns.sweep --cases 20000 --device m4-max

FUZZ_SECONDS ?= 20

fuzz: $(STAMP)-test ## odd input to every public name, file and command, FUZZ_SECONDS each
	$(BIN)/python -m tests.campaigns.fuzz --seconds $(FUZZ_SECONDS) --seed $(shell date +%s)

leak: $(STAMP)-test ## a million calls of every kind: does anything grow?
	$(BIN)/python -m tests.campaigns.leak

test-metal: $(STAMP)-test ## on a Mac: parity, memory and hazards on its GPU, with a report to paste
	$(BIN)/python -m pytest -q tests/on_metal

test-gpu: ## the suite on an NVIDIA GPU, each file a process; MLX's CUDA backend and pytest in $(PYTHON)
	PYTHONPATH=. $(PYTHON) -m tests.campaigns.gpu

guarantee: $(STAMP)-test ## traces 10,000 random calls and every real layer: what Metal would run
	$(BIN)/python -m tests.campaigns.guarantee --cases 10000

dist: $(STAMP)-dist ## wheel and sdist into build/dist: checked, and the wheel used in an empty environment
	rm -rf build/dist
	$(BIN)/python -m build --outdir build/dist
	$(BIN)/python -m twine check --strict build/dist/*
	$(BIN)/python -m tests.campaigns.release build/dist

lint: $(STAMP)-lint ## style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

BENCH := OMP_NUM_THREADS=2 $(RUN) -m polyconv bench
RIVALS := --rivals torch,onnxruntime,jax,upfirdn
BENCHMARKS := docs/benchmarks

models: $(STAMP)-models ## models of mlx-audio, natively, converted and patched; writes docs/benchmarks/models.json
	PYTHONPATH=. $(RUN) $(BENCHMARKS)/models.py

stream-models: $(STAMP)-models ## decoders of mlx-audio, converted, patched and streamed; writes docs/benchmarks/stream_models.json
	PYTHONPATH=. $(RUN) $(BENCHMARKS)/stream_models.py

metal-fit: $(STAMP)-bench ## fits the time model for Apple GPUs to published timings; writes docs/benchmarks/metal_fit.md
	PYTHONPATH=. $(BIN)/python $(BENCHMARKS)/metal_fit.py

bench-cuda: ## on an NVIDIA GPU, with MLX's CUDA backend and PyTorch in $(PYTHON): proof, layers, models
	PYTHONPATH=. MLX_ENABLE_TF32=0 MLX_CUDA_CONV_CACHE_SIZE=8192 $(PYTHON) docs/benchmarks/cuda_proof.py
	PYTHONPATH=. $(PYTHON) docs/benchmarks/cuda_layers.py
	PYTHONPATH=. $(PYTHON) docs/benchmarks/cuda_models.py
	PYTHONPATH=. $(PYTHON) docs/benchmarks/cuda.py

bench-models: $(STAMP)-bench ## whole models against other frameworks, under polyconv run and without; writes docs/benchmarks
	$(BENCH) --models --rivals torch,onnxruntime --rounds 11 --seconds 60 \
		--out $(BENCHMARKS)/whole_models.json
	OMP_NUM_THREADS=2 $(BIN)/polyconv bench --models --rivals torch,onnxruntime --no-native \
		--rounds 3 --seconds 1 --most-gmac 100 --out $(BENCHMARKS)/whole_models_plain.json
	$(BIN)/python $(BENCHMARKS)/page.py

bench-call: $(STAMP)-test ## what a call costs in Python, planned for three devices; writes docs/benchmarks/call.md
	for device in cpu m4-max cuda; do PYTHONPATH=. $(BIN)/python $(BENCHMARKS)/call.py \
		--device $$device --json $(BENCHMARKS)/call-$$device.json || exit 1; done
	$(BIN)/python $(BENCHMARKS)/call_page.py

bench: $(STAMP)-bench ## times polyconv against other frameworks, and writes docs/benchmarks
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
	$(BIN)/python docs/figures/front.py
	$(BIN)/python docs/figures/house.py

gallery: $(STAMP)-examples ## runs the examples, and writes the pictures of docs/gallery.md
	$(RUN) docs/gallery.py

docs: $(STAMP)-docs ## the site, into build/site; a warning is an error
	$(BIN)/python -m sphinx --builder html --fail-on-warning --keep-going --quiet \
		--fresh-env --doctree-dir build/doctrees docs build/site

docs-serve: docs ## the site, at http://127.0.0.1:8000
	$(BIN)/python -m http.server --bind 127.0.0.1 --directory build/site 8000

# What an environment needs, asked in a way that any Python understands. Prints what is wrong.
define CHECK
import platform, sys
need = "polyconv needs Python 3.10 or newer (on a Mac a native arm64 one, and macOS 14 or newer); "
mac = platform.mac_ver()[0]
found = "%s is Python %d.%d" % (sys.executable, sys.version_info[0], sys.version_info[1])
if sys.version_info < (3, 10):
    sys.exit(need + found + ": name another one, as in `make demo PYTHON=python3.12`")
if mac and platform.machine() != "arm64":
    sys.exit(need + found + " for " + platform.machine() + ", which MLX does not run on")
if mac and int(mac.split(".")[0]) < 14:
    sys.exit(need + "this is macOS " + mac)
endef
export CHECK
define CAN_MAKE
try:
    import ensurepip, venv
except ImportError:
    import sys
    sys.exit(sys.executable + " cannot make environments: install python3-venv (its name on Debian)")
endef
export CAN_MAKE

# The environment as it should be. One that no longer works is named, and never half made.
environment:
	@if [ ! -e .venv ]; then \
		$(PYTHON) -c "$$CHECK" && $(PYTHON) -c "$$CAN_MAKE" || exit 1; \
		$(PYTHON) -m venv .venv || { rm -rf .venv; exit 1; }; \
	elif ! { $(BIN)/python -c "$$CHECK" && $(BIN)/python -m pip --version; } >/dev/null 2>&1; then \
		echo ".venv does not work with polyconv (made by another Python, or by half): run" \
			"\`make clean\`, then this again" >&2; exit 1; \
	fi

$(STAMP)-%: pyproject.toml | environment
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[$(BACKEND)$*]'
	@touch $@

clean: ## removes .venv and build
	rm -rf .venv build
