# Every target sets up what it needs, once; extra pip options go into PIP_ARGS.
PYTHON ?= python3
PIP_ARGS ?=
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet $(PIP_ARGS)

.PHONY: demo test slow browser lint cards benchmark clean

# torch goes first: another package's wider range would choose its largest build.
$(VENV)/installed: setup.cfg setup.py
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) torch==2.13.0
	$(PIP) --editable .
	touch $@

$(VENV)/installed-test: $(VENV)/installed
	$(PIP) --editable ".[test]"
	touch $@

$(VENV)/installed-browser: $(VENV)/installed-test
	$(PIP) --editable ".[browser]"
	touch $@

$(VENV)/installed-dev: $(VENV)/installed
	$(PIP) --editable ".[dev]"
	touch $@

demo: $(VENV)/installed
	$(BIN)/python run_pretraining.py recipes/encodzall-nano-demo.yaml --resume_from_checkpoint auto

# Two processes, each test file in one of them.
test: $(VENV)/installed-test
	$(BIN)/python -m pytest --numprocesses 2 --dist loadfile

slow: $(VENV)/installed-test
	$(BIN)/python -m pytest -m slow

# Debian's chromium and chromium-driver must be there.
browser: $(VENV)/installed-browser
	$(BIN)/python -m pytest -m browser

lint: $(VENV)/installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

cards: $(VENV)/installed
	$(BIN)/python -m modeling_textae.cards stage model_cards hub

benchmark: $(VENV)/installed-dev
	$(BIN)/python benchmarks/encodzall_throughput.py
	$(BIN)/python benchmarks/byte_tokenizer.py
	$(BIN)/python benchmarks/text_noise.py
	$(BIN)/python benchmarks/mlm_encoder_bert.py throughput
	$(BIN)/python benchmarks/cta_t5.py
	$(BIN)/python benchmarks/fsq_tokenizers.py speed --tokenizer model_cards/fsq-autoencoder-nano
	$(BIN)/python benchmarks/fsq_tokenizers.py memory --tokenizer model_cards/fsq-autoencoder-nano

clean:
	rm -rf $(VENV) runs hub build *.egg-info
