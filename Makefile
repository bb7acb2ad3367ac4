# make smoke: set up, train, score and draw.   make test: set up and run all tests.   make quick: tests without whole runs.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
RUN    ?= smoke-$(shell date +%Y%m%d-%H%M%S)
STAMP  := $(VENV)/.installed

# Tests start many processes, which would compile all modules again.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: smoke test quick learn lint check-wheel clean

smoke: $(STAMP)
	$(BIN)/impala-mi train configs/smoke.yaml run.name=$(RUN)
	$(BIN)/impala-mi eval runs/$(RUN) --episodes 100 --against-random
	$(BIN)/impala-mi tsne runs/$(RUN)
	@echo "TensorBoard: $(BIN)/tensorboard --logdir runs/$(RUN)/tensorboard"

test: $(STAMP)
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

# The contributor's loop: no Ray, no whole runs, nothing that takes seconds.
quick: $(STAMP)
	$(BIN)/python -m pytest -q -n 2 --ignore=tests/integration -m "not integration and not slow"

# Minutes of training over three seeds: CartPole, memory with and without the LSTM.
learn: $(STAMP)
	$(BIN)/python benchmarks/learn.py

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

check-wheel: $(STAMP)
	$(BIN)/python .ci/check_wheel.py

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -c "import sys; sys.exit('impala-mi needs Python 3.11 or newer, this is ' + sys.version.split()[0] + '; try make PYTHON=python3.12') if sys.version_info < (3, 11) else None"
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev,doom,babyai,cluster]'
	touch $@

clean:
	rm -rf $(VENV) build dist *.egg-info
