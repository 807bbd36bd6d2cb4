# Everything happens in .venv; nothing else on the machine is touched. Running a target again is quick.
#
#   make demo     explain photographs with a real ImageNet classifier, test the explanations, ask a twin about digits
#   make test     run the tests
#   make lint     formatting, linting and types
#   make bench    speed against Captum (half an hour)
#
# Which torch: a plain requirement takes what PyPI has for your machine, on Linux often a CUDA build of several GB. Choose with
#   make demo TORCH="torch --index-url https://download.pytorch.org/whl/cpu"
TORCH ?= torch==2.13.0
# The tests cover torchvision and timm too; this must be the torchvision that belongs to that torch.
TORCHVISION ?= torchvision==0.28.0
PYTHON ?= python3
PIP = .venv/bin/python -m pip install --quiet --disable-pip-version-check
PYTEST_ARGS ?= -n 2

.PHONY: demo test lint bench clean

demo: .venv/demo-ready
	.venv/bin/pellucid demo

test: .venv/test-ready
	.venv/bin/python -m pytest $(PYTEST_ARGS)

lint: .venv/test-ready
	.venv/bin/ruff format --check .
	.venv/bin/ruff check .
	.venv/bin/mypy

bench: .venv/test-ready
	.venv/bin/python -m benchmarks.attribution
	.venv/bin/python -m benchmarks.evaluation
	.venv/bin/python -m benchmarks.concepts
	.venv/bin/python -m benchmarks.surrogate

clean:
	rm -rf .venv

.venv/torch-ready:
	$(PYTHON) -m venv .venv
	$(PIP) $(TORCH)
	touch $@

.venv/demo-ready: .venv/torch-ready pyproject.toml
	$(PIP) -e '.[demo]'
	touch $@

.venv/test-ready: .venv/demo-ready
	$(PIP) $(TORCHVISION)
	$(PIP) -e '.[demo,timm,cluster,causal,test,lint]'
	touch $@
