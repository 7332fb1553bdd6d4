# make demo    the main job, everything embedded: real CT in, enhanced CT back in a PACS
#              PACS=orthanc: with this machine's Orthanc and the plugin instead of the embedded PACS
# make test    the tests, with their system peers where apt may install them
#              WORKERS=2: in two processes, file by file, in about half the time
# make check   style, types, storeys of the house
PYTHON  ?= python3
VENV    := .venv
BIN     := $(VENV)/bin
PEERS   := dcmtk dicom3tools orthanc orthanc-python orthanc-dicomweb chromium chromium-driver
DEMO    ?=
PACS    ?= embedded
WORKERS ?= 0

.PHONY: demo test quick check peers train clean

demo: $(VENV)/.installed
	$(BIN)/dicomnode demo --pacs $(PACS) $(DEMO)

test: $(VENV)/.installed-test peers
	$(BIN)/python -m pytest -n $(WORKERS) --dist loadfile

quick: $(VENV)/.installed-test
	$(BIN)/python -m pytest -m "not slow"

check: $(VENV)/.installed-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check --diff .
	$(BIN)/mypy
	$(BIN)/lint-imports

train: $(VENV)/.installed
	$(BIN)/dicomnode train

# torch first and alone, held by the constraints afterwards: nothing else may choose another build of it.
# Where the index gives a torch with CUDA that is not wanted: make demo TORCH_INDEX=<index of CPU builds>
# A machine with a GPU may keep the torch it likes:            make demo CONSTRAINTS=
CONSTRAINTS ?= constraints.txt
TORCH_INDEX ?=
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet
HELD := $(if $(CONSTRAINTS),-c $(CONSTRAINTS),)

$(BIN)/python:
	$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or later is needed, found " + sys.version.split()[0] if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); echo "the venv module is missing: apt-get install python3-venv"; exit 1; }

$(VENV)/.installed: $(BIN)/python pyproject.toml constraints.txt
	@echo "installing into $(VENV): about 2 GB on disk, once"
	$(PIP) install $(HELD) $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX),) "torch>=2.11"
	$(PIP) install $(HELD) -e .
	touch $@

$(VENV)/.installed-test: $(VENV)/.installed
	$(PIP) install $(HELD) -e ".[test,check,postgres]"
	touch $@

peers:
	@sh deploy/install-peers.sh $(PEERS)

clean:
	rm -rf $(VENV) build dist *.egg-info demo-output
