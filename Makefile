# What people and CI call. Every target installs what it needs into .venv first, which costs nothing when it is there.
.PHONY: install clients check test bench bench-path bench-proxy test-gpu bench-gpu secrets audit soak

TYPED := proxy keeper setup benchmarks model_repository model_repository/primary/1

install:
	./launch.sh install engine proxy triton dev

check: install
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy $(foreach folder,$(TYPED),$(wildcard $(folder)/*.py))
	.venv/bin/shellcheck launch.sh setup/*.sh tests/clients/*.sh tests/clients/scripts/*.sh \
		tests/containers/*.sh benchmarks/proxy_peers/*.sh .ci/run

# The version of everything that comes with the pinned packages, as it is installed here and was tested.
.PHONY: lock
lock: install
	.venv/bin/python setup/lock.py >.venv/constraints.txt && mv .venv/constraints.txt setup/constraints.txt

# The clients that the service is tried with, in places of their own.
clients:
	tests/clients/install.sh

test: install clients
	.venv/bin/python -m pytest -n 2 $(ARGS)

# The images of docker/, built and run for real; as root, with what tests/containers/run.sh names.
.PHONY: test-containers
test-containers: install
	tests/containers/run.sh $(ARGS)

# The service must not run meanwhile: it would share the cores with the benchmark's own.
bench: install
	.venv/bin/python benchmarks/bench_serving.py $(ARGS)

# The serving path alone, with an engine that computes nothing.
bench-path: install
	.venv/bin/python benchmarks/bench_serving_path.py $(ARGS)

# On a machine with an NVIDIA GPU, unattended.
test-gpu: install
	.venv/bin/python -m pytest tests/gpu tests/engine/test_kernels.py $(ARGS)

bench-gpu: install
	.venv/bin/python benchmarks/bench_gpu.py $(ARGS)

# What the proxy costs by itself, beside litellm's and a bare FastAPI.
bench-proxy: install
	.venv/bin/python benchmarks/bench_proxy.py $(ARGS)

# Keys and tokens that somebody left in a file. What merely looks random, or is called a password in a test, is not asked for.
secrets: install
	git ls-files -z | xargs -0 .venv/bin/detect-secrets-hook --disable-plugin KeywordDetector \
		--disable-plugin Base64HighEntropyString --disable-plugin HexHighEntropyString

# Installed packages with known vulnerabilities; asks PyPI's advisory database, and fails when it cannot be reached.
audit: install
	python3 -m venv .venv/audit
	.venv/audit/bin/pip install --quiet pip-audit==2.10.1
	.venv/bin/python setup/audit.py .venv/audit/bin/pip-audit $(wildcard .venv/lib/python3*/site-packages)

# Hours of mixed requests; ARGS is their number, and then `tiny` for a tiny model. What each process holds must not grow.
soak: install
	.venv/bin/python -m tests.reliability.soak $(ARGS)
