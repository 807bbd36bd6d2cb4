# Everything happens in .venv; nothing else on the machine is touched. Running a target again is quick.
#
#   make demo     explain photographs with a real ImageNet classifier, test the explanations, ask a surrogate about digits
#   make test     run the tests
#   make lint     formatting, linting, types, import contracts, dead code
#   make bench    speed against Captum (half an hour)
#
# Which torch, for all of them: a plain requirement takes what PyPI has for your machine, on Linux often a CUDA build
# of several GB. Choose another build with
#   make demo TORCH="torch --index-url https://download.pytorch.org/whl/cpu"
TORCH ?= torch==2.13.0
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
	.venv/bin/lint-imports --no-cache
	.venv/bin/vulture

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

# torchvision N+15 belongs to torch 2.N; without dependencies, from the same index, it cannot replace the torch chosen above.
.venv/test-ready: .venv/demo-ready
	$(PIP) --no-deps "torchvision==0.$$(.venv/bin/python -c 'import torch; print(int(torch.__version__.split(".")[1]) + 15)').*" $(wordlist 2,9,$(TORCH))
	$(PIP) -e '.[demo,timm,cluster,causal,plot,test,lint]'
	touch $@
