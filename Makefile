# A thin front: the build is Meson's, the checks are tools/check.py's.
BUILD ?= build
# What takes long does not outlive a make that is killed.
TIED = setpriv --pdeathsig TERM --

.PHONY: run build check bench bench-portal lab fuzz soak format clean

run:
	@tools/packages.sh build run
	@tools/run.sh $(BUILD)

build: $(BUILD)/build.ninja
	@ninja -C $(BUILD) --quiet

$(BUILD)/build.ninja:
	@tools/packages.sh build
	@CC=gcc meson setup -Dtests=false $(BUILD) >/dev/null || { CC=gcc meson setup -Dtests=false $(BUILD); exit 1; }

check:
	@tools/packages.sh build run check
	@exec $(TIED) /usr/bin/python3 tools/check.py

bench:
	@tools/packages.sh build run check
	@exec $(TIED) /usr/bin/python3 bench/bench.py

bench-portal:
	@tools/packages.sh build run check
	@exec $(TIED) /usr/bin/python3 bench/portal.py $(PARTS)

# make lab CMD='build/wslx doctor': runs CMD in an emulated host with a complete KVM.
lab:
	@tools/packages.sh build run check
	@exec $(TIED) lab/lab.py $(LABFLAGS) -- '$(subst ','\'',$(CMD))'

# make fuzz [SECONDS=300] [TARGETS='blk vsock']
fuzz:
	@tools/packages.sh build run check
	@/usr/bin/python3 tools/fuzz.py $(if $(SECONDS),--seconds $(SECONDS)) $(TARGETS)

soak:
	@tools/packages.sh build run check
	@/usr/bin/python3 tools/soak.py $(SOAKFLAGS)

format:
	@clang-format -i $$(git ls-files '*.c' '*.h')

clean:
	@rm -rf build build-*
