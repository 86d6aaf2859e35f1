# make diagnose | test | lint | type: each makes .venv first and installs what is missing.
PYTHON ?= python3
ROLLOUTS ?= 500
OUT ?= runs/lift

BIN := .venv/bin
# The Python code is used in place. What pip builds from is watched by content, and files that are
# copied or become executables by name; their present state is the name of the stamp.
BUILT := $(sort $(shell find CMakeLists.txt package.xml pyproject.toml setup.py \
	action msg resource srv -type f))
NAMED := $(sort $(shell find config launch robomd_ros/nodes -type f -not -name '*.pyc'))
STATE := $(shell { cat $(BUILT); echo $(BUILT) $(NAMED); } | cksum | tr ' ' '-')

# A sourced ROS 2 would get mixed up with the one in .venv.
unexport AMENT_PREFIX_PATH CMAKE_PREFIX_PATH COLCON_PREFIX_PATH LD_LIBRARY_PATH PYTHONHOME \
	PYTHONPATH RMW_IMPLEMENTATION _ROS_WHEELS_BOOTSTRAP_COMPLETE

# Prints Debian's packages that are missing: what pip cannot bring.
define MISSING
import ctypes, importlib.util, os, shutil, sys, sysconfig
def loads(library):
    try:
        return ctypes.CDLL(library)
    except OSError:
        return None
python = 'python%d.%d' % sys.version_info[:2]
print(*(package for package, there in {
    'g++': shutil.which('c++'),      # the ROS interfaces are compiled, and robosuite's evdev
    'cmake': shutil.which('cmake'),  # robomimic's egl_probe
    python + '-dev': os.path.exists(sysconfig.get_path('include') + '/Python.h'),
    python + '-venv': importlib.util.find_spec('ensurepip'),
    'libegl1': loads('libEGL.so.1'),  # pictures without a display
    'libgl1': loads('libGL.so.1'),
    'libgles2': loads('libGLESv2.so.2'),
    'libosmesa6': loads('libOSMesa.so.8'),
    'libglib2.0-0': loads('libgthread-2.0.so.0'),  # OpenCV
}.items() if not there))
endef
export MISSING

.ONESHELL:
.SHELLFLAGS := -euc
.PHONY: clean diagnose install lint test type

diagnose: install
	$(BIN)/robomd up --task lift --policy builtin:lift --searcher ppo --rollouts $(ROLLOUTS) \
		--seed 0 --executors 2 --out $(OUT)

test: install
	$(BIN)/pytest

lint: install
	$(BIN)/ruff check

type: install
	$(BIN)/mypy

clean:
	rm -rf .venv build dist *.egg-info robomd_ros/action robomd_ros/msg robomd_ros/srv robomd_ros/*.so

# pip cannot link launch/ and config/ into .venv, so they are copied again each time.
install: .venv/installed-$(STATE)
	@cp -R config launch .venv/share/robomd_ros/

.venv/installed-$(STATE):
	@if ! $(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 13))'; then
		echo "robomd_ros needs Python 3.11 or 3.12, which $(PYTHON) is not:" \
			"name one, as in make PYTHON=python3.12." >&2
		exit 1
	fi
	packages=$$($(PYTHON) -c "$$MISSING")
	if [ -n "$$packages" ]; then
		echo "Installing with apt-get, for pictures without a display and for compiling: $$packages"
		[ $$(id -u) = 0 ] && root= || root=sudo
		$$root apt-get update && $$root env DEBIAN_FRONTEND=noninteractive apt-get install -y $$packages || {
			echo "These Debian packages, or what your system has in their place, are needed and" \
				"could not be installed; install them and try again: $$packages" >&2
			exit 1
		}
	fi
	[ -x $(BIN)/python ] || $(PYTHON) -m venv .venv
	rm -f .venv/installed-*
	echo 'Installing robomd_ros and what it needs into .venv; the first time this takes minutes.'
	$(BIN)/pip install --editable '.[test]'
	touch $@
