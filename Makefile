# vmsm. `make help` says what there is.
#
# Every variant has a build directory of its own: build, build-clang,
# build-thread (SAN=thread), build-debug2 (DEBUG=2), and combinations.

ifeq ($(origin CC),default)
CC := gcc
endif
AR ?= ar
PREFIX ?= /usr/local
JOBS ?= $(shell nproc)
# For the makes inside; nothing if the caller has said -j.
PARALLEL = $(if $(filter -j%,$(MAKEFLAGS)),,-j$(JOBS))

MAKEFLAGS += --no-print-directory
Q := $(if $(V),,@)
comma := ,
empty :=
space := $(empty) $(empty)

SAN_WORDS := $(subst $(comma),$(space),$(SAN))
ifneq ($(filter-out address undefined thread,$(SAN_WORDS)),)
$(error SAN=$(SAN): choose address, undefined, thread, or address,undefined)
endif
ifneq ($(filter-out 0 1 2 3,$(DEBUG)),)
$(error DEBUG=$(DEBUG): choose 0 (always-on assertions), 1, 2 (lock ranks) or 3 (expensive))
endif

CLANG := $(findstring clang,$(notdir $(CC)))
# FUZZ is what the goal fuzz sets for the make inside: objects that libFuzzer can follow.
BUILD := $(subst $(space),-,$(strip build $(if $(FUZZ),fuzz,$(if $(CLANG),clang) $(SAN_WORDS) \
	$(if $(DEBUG),debug$(DEBUG)))))

# What is compiled with what.

WARNINGS := -Wall -Wextra -Wshadow -Wconversion -Wstrict-prototypes -Wmissing-prototypes \
	-Wpointer-arith -Wcast-qual $(if $(WERROR),-Werror)
# gcc's thread sanitizer warns of every fence, because it cannot follow them.
SAN_FLAGS := $(if $(SAN),-fsanitize=$(SAN)) \
	$(if $(filter undefined,$(SAN_WORDS)),-fno-sanitize-recover=undefined) \
	$(if $(CLANG),,$(if $(filter thread,$(SAN_WORDS)),-Wno-tsan)) \
	$(if $(FUZZ),-fsanitize=fuzzer-no-link$(comma)float-cast-overflow -fno-sanitize-recover=all)
CFLAGS ?= -O2 -g
COMPILE := $(CC) -std=gnu17 -D_GNU_SOURCE $(CFLAGS) -fno-omit-frame-pointer -fvisibility=hidden \
	-pthread -Isrc -Iinclude -DVMSM_DEBUG=$(or $(DEBUG),0) $(WARNINGS) $(SAN_FLAGS) -MMD -MP
LINK := $(CC) $(CFLAGS) -pthread $(SAN_FLAGS) $(LDFLAGS)
LIBS := -luring -lsodium
CLI_LIBS := -ljansson -lm

VERSION := $(shell sed -n 's/^.define VMSM_VERSION "\(.*\)"/\1/p' include/vmsm.h)
SONAME := libvmsm.so.0

LIB_SOURCES := $(sort $(wildcard $(addsuffix /*.c,src/core src/mapper src/trap src/store \
	src/platform src)))
CLI_SOURCES := $(sort $(wildcard src/cli/*.c))
HEADERS := $(sort $(wildcard include/*.h src/*.h src/*/*.h tests/*.h tests/*/*.h bench/*.h \
	examples/*.h))
PROGRAM_SOURCES := $(sort $(wildcard tests/test_*.c tests/fuzz/*.c tests/torture/*.c tests/managed/*.c \
	bench/*.c examples/*.c))
PRELOAD_SOURCES := $(sort $(wildcard src/preload/*.c))
SIM_MAINS := src/sim/simtest.c src/sim/exhaust.c
SIM_SOURCES := $(filter-out $(SIM_MAINS),$(sort $(wildcard src/sim/*.c)))
ALL_SOURCES := $(LIB_SOURCES) $(PRELOAD_SOURCES) $(CLI_SOURCES) $(SIM_SOURCES) $(SIM_MAINS) $(PROGRAM_SOURCES)

LIB_OBJECTS := $(LIB_SOURCES:%.c=$(BUILD)/obj/%.o)
PIC_OBJECTS := $(LIB_SOURCES:%.c=$(BUILD)/pic/%.o)
PRELOAD_OBJECTS := $(PRELOAD_SOURCES:%.c=$(BUILD)/pic/%.o)
# A sanitizer has interposed what the preloaded library interposes: there is none then.
PRELOAD := $(if $(SAN)$(FUZZ),,$(BUILD)/libvmsm-preload.so)
CLI_OBJECTS := $(CLI_SOURCES:%.c=$(BUILD)/obj/%.o)
TESTS := $(patsubst %.c,$(BUILD)/%,$(sort $(wildcard tests/test_*.c)))
TORTURE := $(BUILD)/tests/torture/torture
TORTURE_OBJECTS := $(patsubst %.c,$(BUILD)/obj/%.o,$(sort $(wildcard tests/torture/*.c)) \
	src/cli/oracle.c src/cli/access.c src/cli/console.c)
# The programs in bench; its other sources are modules that they, and their tests, are linked with.
BENCHES := $(patsubst %.c,$(BUILD)/%,$(wildcard $(addprefix bench/,bench.c bound.c \
	crypt.c programs.c progression.c scale.c)))
BENCH_OBJECTS := $(patsubst %.c,$(BUILD)/obj/%.o,$(filter-out $(BENCHES:$(BUILD)/%=%.c),$(sort \
	$(wildcard bench/*.c))))
BENCH_LIB := $(BUILD)/bench/libbench.a
BENCH_TESTS := $(filter $(BUILD)/tests/test_bench_%,$(TESTS))
# Programs that know nothing of vmsm, to be run by it.
MANAGED := $(patsubst %.c,$(BUILD)/%,$(sort $(wildcard tests/managed/*.c)))
FUZZERS := $(patsubst tests/fuzz/%.c,$(BUILD)/%,$(sort $(wildcard tests/fuzz/fuzz_*.c)))
EXAMPLES := $(patsubst %.c,$(BUILD)/%,$(sort $(wildcard examples/*.c)))
SIM_OBJECTS := $(SIM_SOURCES:%.c=$(BUILD)/obj/%.o)
SIMULATORS := $(SIM_MAINS:src/sim/%.c=$(BUILD)/%)
MANUALS := $(BUILD)/vmsm.1 $(BUILD)/vmsm.3

.DELETE_ON_ERROR:
.SECONDARY:
.PHONY: all libs cli tests benches bench bench-run bound progression scale examples man demo check \
	check-large check-repeats check-core check-programs simtest model exhaust mutate fuzz fuzzers torture torture-case \
	presubmit format format-check tidy valgrind install uninstall clean help

all: libs cli benches examples man ## build the libraries, vmsm, benchmarks, examples, manual pages

libs: $(BUILD)/libvmsm.a $(BUILD)/libvmsm.so $(PRELOAD)
cli: $(BUILD)/vmsm
tests: $(TESTS) $(TORTURE) $(MANAGED) ## build the test programs
benches: $(BENCHES)

# Measurements that write tables and plots to RESULTS; MEASURE=--quick for a short look.
RESULTS ?= $(BUILD)/results
progression: ## measure what each stage and feature is worth: 15 minutes; MEASURE=--quick: 2
	$(Q)scripts/install-deps.sh build
	$(Q)$(MAKE) $(PARALLEL) cli benches
	$(Q)mkdir -p $(RESULTS)
	$(BUILD)/bench/progression --plots $(RESULTS) --json $(RESULTS)/progression.json \
		--markdown $(RESULTS)/progression.md $(MEASURE)

bound: ## measure what a pager on userfaultfd could reach here at most (as root): 2 minutes
	$(Q)scripts/install-deps.sh build
	$(Q)$(MAKE) $(PARALLEL) benches
	$(Q)mkdir -p $(RESULTS)
	$(BUILD)/bench/bound --swap --json $(RESULTS)/bound.json $(MEASURE)

scale: ## measure costs as space, memory and threads grow: 30 minutes; MEASURE=--quick: 1
	$(Q)scripts/install-deps.sh build
	$(Q)$(MAKE) $(PARALLEL) benches
	$(Q)mkdir -p $(RESULTS)
	$(BUILD)/bench/scale --plots $(RESULTS) --json $(RESULTS)/scale.json $(MEASURE)

examples: $(EXAMPLES)
fuzzers: $(FUZZERS)
man: $(MANUALS)

# A stamp changes only when the text in it does: other flags, or another set of files. Goals that
# build nothing themselves leave the stamps to the makes that they start.
within = $(findstring "$(strip $(1))","$(strip $(2))")
same = $(and $(call within,$(1),$(2)),$(call within,$(2),$(1)))
stamp_write = $(shell mkdir -p $(dir $(1)))$(file >$(1),$(strip $(2)))
stamp = $(if $(call same,$(2),$(file <$(1))),,$(call stamp_write,$(1),$(2)))
GOALS := $(filter-out demo bench bench-run bound progression scale check check-large check-repeats \
	check-core check-programs simtest model exhaust mutate fuzz torture torture-case valgrind \
	presubmit format format-check tidy uninstall clean help,$(or $(MAKECMDGOALS),all))
ifneq ($(GOALS),)
$(call stamp,$(BUILD)/flags,$(COMPILE) $(LINK))
$(call stamp,$(BUILD)/files,$(LIB_SOURCES) $(CLI_SOURCES) $(SIM_SOURCES) $(BENCH_OBJECTS) \
	$(PRELOAD_SOURCES))
endif

$(BUILD)/obj/%.o: %.c $(BUILD)/flags
	@mkdir -p $(@D)
	@echo "  CC    $<"
	$(Q)$(COMPILE) -c $< -o $@

$(BUILD)/pic/%.o: %.c $(BUILD)/flags
	@mkdir -p $(@D)
	@echo "  CC    $< (shared)"
	$(Q)$(COMPILE) -fPIC -c $< -o $@

$(BUILD)/libvmsm.a: $(LIB_OBJECTS) $(BUILD)/files
	@echo "  AR    $@"
	$(Q)rm -f $@ && $(AR) rcs $@ $(LIB_OBJECTS)

$(BUILD)/$(SONAME): $(PIC_OBJECTS) $(BUILD)/files
	@echo "  LINK  $@"
	$(Q)$(LINK) -shared -Wl,-soname,$(SONAME) $(if $(SAN),,-Wl$(comma)-z$(comma)defs) \
		$(PIC_OBJECTS) $(LIBS) -o $@

$(BUILD)/libvmsm.so: $(BUILD)/$(SONAME)
	$(Q)ln -sf $(SONAME) $@

# What it has of libvmsm and of jemalloc calls its own functions instead of some of the C library's.
JEMALLOC ?= $(firstword $(wildcard $(addsuffix /libjemalloc_pic.a,/usr/lib/$(shell $(CC) \
	-print-multiarch) /usr/lib64 /usr/lib /usr/local/lib)) libjemalloc_pic.a)

$(BUILD)/preload/core.o: $(PIC_OBJECTS) src/preload/core.syms $(BUILD)/files
	@mkdir -p $(@D)
	$(Q)$(CC) -r -nostdlib $(PIC_OBJECTS) -o $@
	$(Q)objcopy --redefine-syms=src/preload/core.syms $@

$(BUILD)/preload/jemalloc.a: $(JEMALLOC) src/preload/jemalloc.syms
	@mkdir -p $(@D)
	$(Q)objcopy --redefine-syms=src/preload/jemalloc.syms $< $@
	$(Q)$(AR) d $@ jemalloc_cpp.pic.o

$(BUILD)/libvmsm-preload.so: $(PRELOAD_OBJECTS) $(BUILD)/preload/core.o \
		$(BUILD)/preload/jemalloc.a src/preload/preload.map
	@echo "  LINK  $@"
	$(Q)$(LINK) -shared -Wl,-soname,libvmsm-preload.so -Wl,-z,now -Wl,-z,defs -Wl,-z,nodelete \
		-Wl,--version-script=src/preload/preload.map $(PRELOAD_OBJECTS) \
		$(BUILD)/preload/core.o $(BUILD)/preload/jemalloc.a $(LIBS) -lm -ldl -o $@

$(BUILD)/vmsm: $(CLI_OBJECTS) $(BUILD)/libvmsm.a $(BUILD)/files
	@echo "  LINK  $@"
	$(Q)$(LINK) $(CLI_OBJECTS) $(BUILD)/libvmsm.a $(LIBS) $(CLI_LIBS) -o $@

$(BENCH_LIB): $(BENCH_OBJECTS) $(BUILD)/files
	@echo "  AR    $@"
	@mkdir -p $(@D)
	$(Q)rm -f $@ && $(AR) rcs $@ $(BENCH_OBJECTS)

$(BENCHES) $(BENCH_TESTS): $(BUILD)/%: $(BUILD)/obj/%.o $(BENCH_LIB) $(BUILD)/libvmsm.a
	@mkdir -p $(@D)
	@echo "  LINK  $@"
	$(Q)$(LINK) $< $(BENCH_LIB) $(BUILD)/libvmsm.a $(LIBS) $(CLI_LIBS) -o $@

$(MANAGED): $(BUILD)/%: $(BUILD)/obj/%.o
	@mkdir -p $(@D)
	@echo "  LINK  $@"
	$(Q)$(LINK) $< -o $@

# Its parts that know no system call are tested by themselves.
$(BUILD)/tests/test_preload_space: $(BUILD)/obj/src/preload/space.o

$(filter-out $(BENCH_TESTS),$(TESTS)) $(EXAMPLES): $(BUILD)/%: $(BUILD)/obj/%.o $(BUILD)/libvmsm.a
	@mkdir -p $(@D)
	@echo "  LINK  $@"
	$(Q)$(LINK) $(filter %.o,$^) $(BUILD)/libvmsm.a $(LIBS) -lm -o $@

$(SIMULATORS): $(BUILD)/%: $(BUILD)/obj/src/sim/%.o $(SIM_OBJECTS) $(BUILD)/libvmsm.a $(BUILD)/files
	@echo "  LINK  $@"
	$(Q)$(LINK) $< $(SIM_OBJECTS) $(BUILD)/libvmsm.a $(LIBS) -o $@

# Called only where the processor has what it is compiled for.
WIDE := $(if $(findstring x86_64,$(shell $(CC) -dumpmachine)),-mavx2)
$(BUILD)/obj/src/core/hash_wide.o $(BUILD)/pic/src/core/hash_wide.o: COMPILE += $(WIDE)

# The fuzz targets are linked with the commands too, whose main() must give way to libFuzzer's.
$(BUILD)/obj/src/cli/main.o: COMPILE += $(if $(FUZZ),-Dmain=vmsm_main -Wno-missing-prototypes)

$(FUZZERS): $(BUILD)/%: $(BUILD)/obj/tests/fuzz/%.o $(CLI_OBJECTS) $(BUILD)/libvmsm.a
	@echo "  LINK  $@"
	$(Q)$(LINK) -fsanitize=fuzzer $< $(CLI_OBJECTS) $(BUILD)/libvmsm.a $(LIBS) $(CLI_LIBS) -o $@

$(TORTURE): $(TORTURE_OBJECTS) $(BUILD)/libvmsm.a $(BUILD)/files
	@mkdir -p $(@D)
	@echo "  LINK  $@"
	$(Q)$(LINK) $(TORTURE_OBJECTS) $(BUILD)/libvmsm.a $(LIBS) -o $@

$(BUILD)/vmsm.1: $(BUILD)/vmsm
	@echo "  MAN   $@"
	$(Q)$(BUILD)/vmsm --man > $@

$(BUILD)/vmsm.3: scripts/make-man3.sh include/vmsm.h $(BUILD)/flags
	@echo "  MAN   $@"
	$(Q)scripts/make-man3.sh include/vmsm.h > $@

# Running it.

demo: ## install what is missing (as root), build, and run the main job for 20 seconds
	$(Q)scripts/install-deps.sh build
	$(Q)$(MAKE) $(PARALLEL) all
	$(BUILD)/vmsm sim --seconds 20

# Thread-sanitized programs want their addresses in the usual places.
WRAP_thread := $(if $(filter thread,$(SAN_WORDS)),setarch --addr-no-randomize)
WRAP_valgrind := valgrind --quiet --fair-sched=yes --leak-check=full \
	--errors-for-leak-kinds=definite$(comma)indirect$(comma)possible --error-exitcode=99

check: ## install what is missing (as root), build, and run all tests
	$(Q)scripts/install-deps.sh check
	$(Q)$(MAKE) $(PARALLEL) all tests
	$(Q)tests/run $(BUILD) all $(WRAP_thread)

# Each run has a directory of its own, and `latest` is the last.
BENCH_RESULTS ?= $(BUILD)/bench-results
bench: ## measure beside swap, zram and a mapped file (as root): 3 minutes; FULL=1: 50 to 75
	$(Q)scripts/install-deps.sh bench || scripts/install-deps.sh build
	$(Q)$(MAKE) $(PARALLEL) benches
	$(Q)mkdir -p $(BENCH_RESULTS)
	run=$(BENCH_RESULTS)/$$(date +%Y%m%d-%H%M%S) && mkdir $$run && \
		ln -sfn $${run##*/} $(BENCH_RESULTS)/latest && $(BUILD)/bench/bench \
		$(if $(FULL),--full) --targets --json $$run/bench.json --markdown $$run/bench.md \
		--plots $$run $(BENCH_OPTIONS)

bench-run: ## measure programs by `vmsm run` beside swap (as root): 10 minutes; MEASURE='--rounds 1'
	$(Q)scripts/install-deps.sh check
	$(Q)$(MAKE) $(PARALLEL) all
	$(Q)mkdir -p $(RESULTS)
	$(BUILD)/bench/programs --markdown $(RESULTS)/programs.md $(MEASURE)

MINUTES ?= 3
torture: ## real faults on real memory for MINUTES=3 (as root): see tests/torture/README.md
	$(Q)scripts/install-deps.sh check
	$(Q)$(MAKE) $(PARALLEL) tests
	$(Q)tests/torture/run $(BUILD) $$(($(MINUTES) * 60)) $(if $(SEED),--seed $(SEED))

SECONDS ?= 10
torture-case: # one case again: PHASE, MAPPER, TRAP and SEED as torture has printed them
	$(Q)$(MAKE) $(PARALLEL) tests
	$(Q)tests/torture/run $(BUILD) 1 --case $(SECONDS) --phase $(PHASE) --mapper $(MAPPER) \
		--trap $(TRAP) --seed $(SEED)

LARGE ?= 8
check-large: ## run programs of Debian in `vmsm run` on LARGE=8 times as much
	$(Q)scripts/install-deps.sh check
	$(Q)$(MAKE) $(PARALLEL) all tests
	$(Q)VMSM_BUILD="$(CURDIR)/$(BUILD)" SCALE=$(LARGE) tests/run_programs.sh $(PROGRAMS)

REPEATS ?= 20
check-repeats: ## run each of them REPEATS=20 times, with delays in the manager and in its pagefile
	$(Q)scripts/install-deps.sh check
	$(Q)$(MAKE) $(PARALLEL) all tests
	$(Q)VMSM_BUILD="$(CURDIR)/$(BUILD)" REPEATS=$(REPEATS) tests/run_programs.sh $(PROGRAMS)

check-programs: ## run all test programs, without the shell tests: what sanitizers can watch
	$(Q)$(MAKE) $(PARALLEL) tests
	$(Q)tests/run $(BUILD) programs $(WRAP_thread)

check-core: ## run the unit tests only (those of the core, on the soft mapper)
	$(Q)$(MAKE) $(PARALLEL) tests
	$(Q)tests/run $(BUILD) core $(WRAP_thread)

# The simulation runs with the assertions and lock ranks of a debug build.
SEEDS ?= 1000
simtest: ## run SEEDS=1000 simulations from fresh seeds, and those that failed once
	$(Q)scripts/install-deps.sh build
	$(Q)$(MAKE) $(PARALLEL) DEBUG=2 build-debug2/simtest
	build-debug2/simtest --file tests/seeds.txt --jobs $(JOBS)
	build-debug2/simtest --seeds $(SEEDS) --jobs $(JOBS)

# Automatic variables begin as zero, so that states do not differ by what nobody reads.
exhaust: ## try all interleavings of small worlds
	$(Q)scripts/install-deps.sh build
	$(Q)$(MAKE) $(PARALLEL) DEBUG=2 BUILD=build-exhaust \
		CFLAGS="-O2 -g -ftrivial-auto-var-init=zero" build-exhaust/exhaust
	build-exhaust/exhaust

mutate: ## plant the bugs of tests/mutations one at a time, and show what catches each
	$(Q)scripts/install-deps.sh check
	$(Q)scripts/mutate --jobs $(JOBS)

model: ## check the model of the page protocol with spin, and that it finds planted defects
	$(Q)scripts/install-deps.sh check
	$(Q)JOBS=$(JOBS) scripts/model.sh build/model

valgrind: ## run the unit tests under Valgrind
	$(Q)$(MAKE) $(PARALLEL) tests
	$(Q)tests/run $(BUILD) core $(WRAP_valgrind)

FUZZ_SECONDS ?= 60
fuzz: ## give every parser, and the API, inputs that were not thought of, for FUZZ_SECONDS=60 each
	$(Q)scripts/install-deps.sh presubmit
	$(Q)$(MAKE) $(PARALLEL) CC=clang SAN=address,undefined DEBUG=2 FUZZ=1 fuzzers
	$(Q)tests/fuzz/run build-fuzz $(FUZZ_SECONDS) $(JOBS)

presubmit: ## every check but the shell tests: format, tidy, both compilers, sanitizers, Valgrind
	$(Q)scripts/install-deps.sh presubmit
	$(Q)$(MAKE) format-check
	$(Q)$(MAKE) $(PARALLEL) WERROR=1 CC=gcc all tests
	$(Q)$(MAKE) $(PARALLEL) WERROR=1 CC=clang all tests
	$(Q)$(MAKE) tidy
	$(Q)$(MAKE) WERROR=1 CC=gcc DEBUG=3 check-core
	$(Q)$(MAKE) WERROR=1 CC=gcc SAN=address,undefined check-programs
	$(Q)$(MAKE) $(PARALLEL) WERROR=1 CC=gcc SAN=address,undefined DEBUG=2 \
		build-address-undefined-debug2/simtest
	build-address-undefined-debug2/simtest --seeds 200 --jobs $(JOBS)
	$(Q)$(MAKE) WERROR=1 CC=gcc SAN=thread check-programs
	$(Q)$(MAKE) WERROR=1 CC=gcc valgrind

format: ## lay out all sources with clang-format 14
	$(Q)$(call llvm,clang-format) -i $(ALL_SOURCES) $(HEADERS)

format-check:
	@echo "  FORMAT"
	$(Q)$(call llvm,clang-format) --dry-run --Werror $(ALL_SOURCES) $(HEADERS)

tidy: ## run clang-tidy 14 over src
	@echo "  TIDY"
	$(Q)tidy=$(call llvm,clang-tidy) && \
		printf '%s\n' $(LIB_SOURCES) $(PRELOAD_SOURCES) $(CLI_SOURCES) | \
		xargs -P $(JOBS) -I @ "$$tidy" --quiet @ -- \
		$(filter-out -M% -DVMSM_DEBUG=%,$(wordlist 2,99,$(COMPILE))) -DVMSM_DEBUG=3

# The name under which version 14 of an LLVM tool is installed; other versions judge differently.
llvm = $$(for tool in $(1)-14 $(1); do \
	"$$tool" --version 2>/dev/null | grep -q 'version 14\.' && echo "$$tool" && exit 0; \
	done; echo "$(1) 14 is missing: run scripts/install-deps.sh presubmit" >&2; echo false)

# Installing it.

BIN_DIR := $(DESTDIR)$(PREFIX)/bin
LIB_DIR := $(DESTDIR)$(PREFIX)/lib
INCLUDE_DIR := $(DESTDIR)$(PREFIX)/include
MAN_DIR := $(DESTDIR)$(PREFIX)/share/man
# The loader's cache is the machine's, not the package's.
LDCONFIG := $(if $(DESTDIR),true,if [ "$$(id -u)" = 0 ]; then ldconfig; fi)

install: all ## install below PREFIX (/usr/local), or below DESTDIR for packaging
	install -d $(BIN_DIR) $(LIB_DIR)/pkgconfig $(INCLUDE_DIR) $(MAN_DIR)/man1 $(MAN_DIR)/man3
	install -m 755 $(BUILD)/vmsm $(BIN_DIR)/
	install -m 644 $(BUILD)/libvmsm.a $(BUILD)/$(SONAME) $(LIB_DIR)/
	ln -sf $(SONAME) $(LIB_DIR)/libvmsm.so
	$(if $(PRELOAD),install -m 755 $(PRELOAD) $(LIB_DIR)/)
	install -m 644 include/vmsm.h $(INCLUDE_DIR)/
	sed -e 's|@PREFIX@|$(PREFIX)|' -e 's|@VERSION@|$(VERSION)|' vmsm.pc.in \
		> $(LIB_DIR)/pkgconfig/vmsm.pc
	install -m 644 $(BUILD)/vmsm.1 $(MAN_DIR)/man1/
	install -m 644 $(BUILD)/vmsm.3 $(MAN_DIR)/man3/
	@$(LDCONFIG)

uninstall: ## remove what install put there (give the same PREFIX and DESTDIR)
	rm -f $(BIN_DIR)/vmsm $(LIB_DIR)/libvmsm.a $(LIB_DIR)/$(SONAME) $(LIB_DIR)/libvmsm.so \
		$(LIB_DIR)/pkgconfig/vmsm.pc $(INCLUDE_DIR)/vmsm.h $(MAN_DIR)/man1/vmsm.1 \
		$(MAN_DIR)/man3/vmsm.3
	@$(LDCONFIG)

clean: ## remove all build directories
	rm -rf build build-*

help: ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-13s %s\n", $$1, $$2 }' Makefile
	@echo
	@echo "  SAN=address|undefined|thread  DEBUG=0..3  CC=clang  WERROR=1  V=1  (each variant"
	@echo "  builds in its own directory; this one in $(BUILD))"

-include $(shell test -d $(BUILD) && find $(BUILD) -name '*.d')
