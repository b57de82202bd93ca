# SPDX-License-Identifier: MIT
#
# kvtier: everything that runs in user space.  The module is built by Kbuild.
#
#   make V=1            show the commands
#   make CC=clang B=build/clang
#   make SANITIZE=address,undefined B=build/asan

B ?= build
V ?= 0
PREFIX ?= /usr/local
BINDIR ?= $(PREFIX)/bin
LIBDIR ?= $(PREFIX)/lib
INCLUDEDIR ?= $(PREFIX)/include
DATADIR ?= $(PREFIX)/share
UNITDIR ?= $(PREFIX)/lib/systemd/system
CFLAGS ?= -O2 -g
PKG_CONFIG ?= pkg-config
INSTALL ?= install

ifeq ($(origin CC),default)
CC := gcc
endif

# "CC file" instead of the whole command, unless V=1.
ifneq ($(V),1)
Q_CC = @echo "  CC      $<";
Q_LD = @echo "  LD      $@";
Q_AR = @echo "  AR      $@";
Q_LN = @echo "  LN      $@";
Q_GEN = @echo "  GEN     $@";
MAKEFLAGS += --no-print-directory
endif

VERSION := $(shell awk '/define KVT_VERSION_(MAJOR|MINOR) /{ printf "%s.", $$3 } \
	END { print 0 }' libkvtier/include/kvtier.h)
SOVERSION := $(firstword $(subst ., ,$(VERSION)))

# The module.  Built through links in a folder of its own, so that the tree stays clean.
KRUNNING = $(call once,KRUNNING,uname -r)
KDIR ?= /lib/modules/$(KRUNNING)/build
MODULE = $(abspath $(B))/module
RULE := /usr/lib/udev/rules.d/60-kvtier.rules
SYSUSERS := /usr/lib/sysusers.d/kvtier.conf
DKMS_SOURCE = /usr/src/kvtier-$(VERSION)

LIB_PACKAGES := liburing libisal numa
TOOL_PACKAGES := libcjson ncursesw
DAEMON_PACKAGES := inih libmicrohttpd
TEST_PACKAGES := cmocka

# Asked for once, on first use: help and clean work where nothing is installed.
once = $(eval $(1) := $(shell $(2)))$($(1))
PACKAGE_LIBS = $(call once,PACKAGE_LIBS,$(PKG_CONFIG) --libs $(LIB_PACKAGES))
LIB_LIBS = $(PACKAGE_LIBS) -pthread -lm
DAEMON_LIBS = $(call once,DAEMON_LIBS,$(PKG_CONFIG) --libs $(DAEMON_PACKAGES))
TOOL_LIBS = $(call once,TOOL_LIBS,$(PKG_CONFIG) --libs $(TOOL_PACKAGES))
# The pinned engine's folder; scripts/engine.sh fetches it when it is not there.
ENGINE = $(call once,ENGINE,scripts/engine.sh)
ENGINE_CFLAGS = -isystem $(or $(ENGINE),$(error no engine))/include
TEST_LIBS = $(call once,TEST_LIBS,$(PKG_CONFIG) --libs $(TEST_PACKAGES))

WARNINGS := -Wall -Wextra -Werror
INCLUDES := -Iuapi -Ilibkvtier/include
DEPFLAGS = -MMD -MP
SANFLAGS := $(if $(SANITIZE),-fsanitize=$(SANITIZE) -fno-omit-frame-pointer)
ALL_CFLAGS = -std=gnu11 $(WARNINGS) -fPIC -pthread $(INCLUDES) $(SANFLAGS) $(CFLAGS)
ALL_LDFLAGS = $(SANFLAGS) $(LDFLAGS)

objects = $(patsubst %.c,$(B)/obj/%.o,$(1))

LIB_SRC := $(sort $(wildcard libkvtier/*.c $(if $(filter x86_64,$(shell uname -m)),libkvtier/x86/*.c)))
TOOL_SRC := $(sort $(wildcard tools/*.c))
DAEMON_SRC := $(sort $(wildcard daemon/*.c))
PRELOAD_SRC := $(sort $(wildcard tools/preload/*.c))
DEMO_SRC := $(sort $(wildcard demo/*.c))
SLOW_DISK_SRC := tests/slow_disk.c
CONFORMANCE_SRC := $(sort $(wildcard tests/conformance/*.c)) $(SLOW_DISK_SRC)
# Programs of several files are named by their first word: attend.c, attend_*.c.
ATTEND_SRC := $(sort $(wildcard tests/bench/attend*.c))
DECODE_SRC := $(sort $(wildcard tests/bench/decode*.c))
SHARE_SRC := $(sort $(wildcard tests/bench/share*.c))
RESTART_SRC := tests/bench/restart.c
BENCH_SRC := $(filter-out $(ATTEND_SRC) $(DECODE_SRC) $(SHARE_SRC) $(RESTART_SRC),$(sort $(wildcard tests/bench/*.c)))
UNIT_SRC := $(sort $(wildcard tests/unit/test_*.c))
SEQ_SRC := $(sort $(wildcard tests/seq/*.c))
DAEMON_TEST_SRC := $(sort $(wildcard tests/daemon/*.c))
VM_SRC := $(sort $(wildcard tests/vm/*.c))
EXAMPLE_SRC := $(sort $(wildcard examples/*.c))
DECODER_SRC := $(sort $(wildcard examples/decode/*.c))
ALL_SRC := $(LIB_SRC) $(TOOL_SRC) $(DAEMON_SRC) $(DAEMON_TEST_SRC) $(PRELOAD_SRC) $(DEMO_SRC) \
	$(CONFORMANCE_SRC) $(BENCH_SRC) $(ATTEND_SRC) $(DECODE_SRC) $(SHARE_SRC) $(RESTART_SRC) \
	$(UNIT_SRC) $(SEQ_SRC) \
	tests/tools/pool_user.c $(VM_SRC) $(EXAMPLE_SRC) $(DECODER_SRC)

HEADERS := $(sort $(wildcard libkvtier/include/*.h))
LIB_FILES := $(B)/libkvtier.so.$(SOVERSION) $(B)/libkvtier.so $(B)/libkvtier.a $(B)/kvtier.pc
DEMO_MAIN := $(shell grep -ls '^int main\b' $(DEMO_SRC) /dev/null)
DEMO_BIN := $(patsubst demo/%.c,$(B)/%,$(DEMO_MAIN))
BENCH_BIN := $(patsubst tests/bench/%.c,$(B)/%,$(BENCH_SRC))
UNIT_BIN := $(patsubst tests/unit/%.c,$(B)/tests/unit/%,$(UNIT_SRC))
SEQ_MAIN := $(shell grep -ls '^int main\b' $(SEQ_SRC) /dev/null)
SEQ_BIN := $(patsubst tests/seq/%.c,$(B)/tests/seq/%,$(SEQ_MAIN))
EXAMPLE_BIN := $(patsubst examples/%.c,$(B)/examples/%,$(EXAMPLE_SRC)) $(B)/examples/decode
DAEMON_TEST_MAIN := $(shell grep -ls '^int main\b' $(DAEMON_TEST_SRC) /dev/null)
DAEMON_TEST_BIN := $(patsubst tests/daemon/%.c,$(B)/tests/daemon/%,$(DAEMON_TEST_MAIN)) \
	$(B)/tests/daemon/kvtierd
TOOL_TEST_BIN := $(B)/tests/tools/pool_user
VM_BIN := $(patsubst tests/vm/%.c,$(B)/tests/vm/%,$(VM_SRC))

.PHONY: all lib tools daemon examples demo-programs tests demo test bench install uninstall clean
.PHONY: help deps
.PHONY: bench-attend bench-decode bench-restart bench-share bench-trace
.PHONY: vm vm-demo modules install-module uninstall-module dkms
.DEFAULT_GOAL := all
.DELETE_ON_ERROR:
.PRECIOUS: $(B)/obj/%.o

all: lib tools daemon ## build the library, the tools and the daemon (default)

lib: deps $(LIB_FILES) ## build libkvtier (shared, static) and kvtier.pc

tools: deps $(B)/kvtier $(B)/libkvtier-preload.so ## build the kvtier command and the preload shim

daemon: deps $(B)/kvtierd ## build kvtierd

examples: deps $(EXAMPLE_BIN) ## build the example programs of the library

demo-programs: deps $(DEMO_BIN) ## build what the demo runs; fetches the pinned engine once

TEST_BIN = $(B)/conformance $(BENCH_BIN) $(B)/bench-restart $(UNIT_BIN) $(SEQ_BIN) $(DAEMON_TEST_BIN) \
	$(TOOL_TEST_BIN) $(VM_BIN)
tests: all examples $(TEST_BIN) ## build the test and benchmark programs

demo: ## set up and show an unmodified llama.cpp with a quarter of the memory; MODEL= CTX=
	scripts/setup.sh build demo
	$(MAKE) all demo-programs
	MODEL='$(MODEL)' CTX='$(CTX)' demo/demo.sh

test: ## set up, build every variant and run all tests; SUITES="unit engine" runs some
	scripts/setup.sh build test demo vm
	SUITES='$(SUITES)' tests/run.sh

vm: ## set up and open a shell in a machine with the module, CXL and NVMe; KERNEL=6.12
	scripts/setup.sh build demo vm
	tests/vm/run.sh --shell --kernel $(or $(KERNEL),6.12)

vm-demo: ## set up and run an unmodified llama.cpp on the module in that machine; KERNEL=
	scripts/setup.sh build demo vm
	tests/vm/run.sh --kernel $(or $(KERNEL),6.12) --suite boot --suite engine

bench: ## set up and measure; prints a table and writes build/bench.json
	scripts/setup.sh build demo bench
	$(MAKE) all demo-programs $(BENCH_BIN)
	tests/bench/bench.sh

bench-attend: ## set up and measure attention against ggml's and a plain read
	scripts/setup.sh build demo bench
	$(MAKE) all $(B)/bench-attend
	tests/bench/attend.sh

bench-decode: ## set up and measure decode steps of a cache larger than its memory
	scripts/setup.sh build demo bench
	$(MAKE) all demo-programs $(B)/bench-decode
	tests/bench/decode.sh

bench-share: ## set up and measure two engines and eight sessions that share kvtierd's memory
	scripts/setup.sh build bench
	$(MAKE) all $(B)/bench-share
	tests/bench/share.sh

bench-restart: ## set up and measure a killed engine's next token against its prompt; MODEL=
	scripts/setup.sh build demo bench
	$(MAKE) all demo-programs $(B)/bench-restart
	MODEL='$(MODEL)' tests/bench/restart.sh

bench-trace: ## replay the traces of peers against LRU and Belady; TRACES=
	scripts/setup.sh build bench
	$(MAKE) all
	tests/bench/trace.sh

install: lib tools daemon ## install under PREFIX (default /usr/local); DESTDIR= for packages
	$(INSTALL) -d $(DESTDIR)$(BINDIR) $(DESTDIR)$(LIBDIR)/pkgconfig \
		$(DESTDIR)$(LIBDIR)/kvtier $(DESTDIR)$(INCLUDEDIR)/linux
	$(INSTALL) -m 755 $(B)/kvtier $(B)/kvtierd $(DESTDIR)$(BINDIR)/
	$(INSTALL) -d $(DESTDIR)$(UNITDIR)
	sed 's,/usr/local/bin,$(BINDIR),' packaging/systemd/kvtierd.service \
		>$(DESTDIR)$(UNITDIR)/kvtierd.service
	$(INSTALL) -m 644 $(B)/libkvtier-preload.so $(DESTDIR)$(LIBDIR)/kvtier/
	$(INSTALL) -m 755 $(B)/libkvtier.so.$(SOVERSION) $(DESTDIR)$(LIBDIR)/
	ln -sf libkvtier.so.$(SOVERSION) $(DESTDIR)$(LIBDIR)/libkvtier.so
	$(INSTALL) -m 644 $(B)/libkvtier.a $(DESTDIR)$(LIBDIR)/
	$(INSTALL) -m 644 $(B)/kvtier.pc $(DESTDIR)$(LIBDIR)/pkgconfig/
	$(INSTALL) -m 644 $(HEADERS) $(DESTDIR)$(INCLUDEDIR)/
	$(INSTALL) -m 644 uapi/linux/kvtier.h $(DESTDIR)$(INCLUDEDIR)/linux/
	$(foreach f,$(EXTRA_FILES),$(INSTALL) -D -m 644 $(call source_of,$f) \
		$(DESTDIR)$(call target_of,$f)$(newline))

uninstall: ## remove what install put there
	rm -f $(DESTDIR)$(BINDIR)/kvtier $(DESTDIR)$(BINDIR)/kvtierd \
		$(DESTDIR)$(UNITDIR)/kvtierd.service $(DESTDIR)$(LIBDIR)/libkvtier.so \
		$(DESTDIR)$(LIBDIR)/libkvtier.so.$(SOVERSION) $(DESTDIR)$(LIBDIR)/libkvtier.a \
		$(DESTDIR)$(LIBDIR)/pkgconfig/kvtier.pc \
		$(patsubst libkvtier/include/%,$(DESTDIR)$(INCLUDEDIR)/%,$(HEADERS)) \
		$(DESTDIR)$(INCLUDEDIR)/linux/kvtier.h $(DESTDIR)$(LIBDIR)/kvtier/libkvtier-preload.so \
		$(foreach f,$(EXTRA_FILES),$(DESTDIR)$(call target_of,$f))
	-rmdir $(DESTDIR)$(LIBDIR)/kvtier $(DESTDIR)$(DATADIR)/kvtier

modules: ## build the kernel module for KDIR= (default: the running kernel)
	@test -e $(KDIR)/Makefile || { echo "kvtier: no kernel headers in $(KDIR);" \
		"install linux-headers-$(KRUNNING), or name a folder: make modules KDIR=" >&2; exit 1; }
	mkdir -p $(MODULE)/kmod
	find $(MODULE) -type l -delete
	ln -s $(CURDIR)/Kbuild $(CURDIR)/uapi $(MODULE)/
	ln -s $(addprefix $(CURDIR)/,$(wildcard kmod/*.[ch]) kmod/compat) $(MODULE)/kmod/
	$(MAKE) -C $(KDIR) M=$(MODULE) modules

install-module: modules ## install the module, the group kvtier and its udev rule
	$(MAKE) -C $(KDIR) M=$(MODULE) INSTALL_MOD_PATH=$(DESTDIR) modules_install
	$(INSTALL) -D -m 644 packaging/udev/60-kvtier.rules $(DESTDIR)$(RULE)
	$(INSTALL) -D -m 644 packaging/sysusers.d/kvtier.conf $(DESTDIR)$(SYSUSERS)
	$(if $(DESTDIR),,packaging/activate.sh)

uninstall-module: ## remove what install-module and dkms put there
	rm -f $(DESTDIR)$(RULE) $(DESTDIR)$(SYSUSERS)
	find $(DESTDIR)/lib/modules -path '*/updates/kvtier.ko*' -delete
	$(if $(DESTDIR),,if command -v dkms >/dev/null; then \
		dkms remove kvtier/$(VERSION) --all || true; fi)
	rm -rf $(DESTDIR)$(DKMS_SOURCE)
	$(if $(DESTDIR),,depmod -a)

dkms: ## install the module's sources for DKMS, which builds them for each kernel
	rm -rf $(DESTDIR)$(DKMS_SOURCE)
	$(INSTALL) -d $(DESTDIR)$(DKMS_SOURCE)
	cp -R Kbuild kmod uapi $(DESTDIR)$(DKMS_SOURCE)/
	sed 's/@VERSION@/$(VERSION)/' packaging/dkms/dkms.conf >$(DESTDIR)$(DKMS_SOURCE)/dkms.conf
	$(INSTALL) -D -m 644 packaging/udev/60-kvtier.rules $(DESTDIR)$(RULE)
	$(INSTALL) -D -m 644 packaging/sysusers.d/kvtier.conf $(DESTDIR)$(SYSUSERS)
	$(if $(DESTDIR),,dkms install --force kvtier/$(VERSION) && packaging/activate.sh)

clean: ## remove the build folder
	rm -rf $(B)

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{ printf "  %-17s %s\n", $$1, $$2 }' Makefile

# Man pages and shell completion: "source:target", as far as they exist.
EXTRA_FILES := \
	$(foreach f,$(wildcard Documentation/man/*.[1-8]),\
		$f:$(DATADIR)/man/man$(subst .,,$(suffix $f))/$(notdir $f)) \
	$(foreach f,$(wildcard tools/completion/kvtier.bash),\
		$f:$(DATADIR)/bash-completion/completions/kvtier) \
	packaging/kvtierd.conf:$(DATADIR)/kvtier/kvtierd.conf.example \
	packaging/grafana/kvtier.json:$(DATADIR)/kvtier/grafana.json
source_of = $(firstword $(subst :, ,$(1)))
target_of = $(lastword $(subst :, ,$(1)))
define newline


endef

# One plain sentence instead of a compiler's complaint about a missing header.
deps: ## say which packages are missing and what installs them
	@missing=; \
	command -v $(firstword $(CC)) >/dev/null || missing="$(firstword $(CC))"; \
	command -v $(PKG_CONFIG) >/dev/null || missing="$$missing $(PKG_CONFIG)"; \
	for p in $(LIB_PACKAGES) $(TOOL_PACKAGES) $(DAEMON_PACKAGES); do \
		$(PKG_CONFIG) --exists $$p 2>/dev/null || missing="$$missing $$p"; \
	done; \
	[ -z "$$missing" ] || { \
		echo "kvtier: missing:$$missing; install with: scripts/setup.sh build" >&2; \
		exit 1; \
	}

$(B)/obj/%.o: %.c $(B)/flags | deps
	$(Q_CC)mkdir -p $(@D) && $(CC) $(ALL_CFLAGS) $(EXTRA_CFLAGS) $(DEPFLAGS) -c -o $@ $<

# Stale when the compiler or its flags change; the second when the places of install do.
remember = mkdir -p $(@D) && { echo '$(1)' | cmp -s - $@ || echo '$(1)' >$@; }
$(B)/flags: FORCE
	@$(call remember,$(CC) $(ALL_CFLAGS))
$(B)/places: FORCE
	@$(call remember,$(PREFIX) $(LIBDIR) $(INCLUDEDIR))
$(call objects,$(TOOL_SRC)): $(B)/places
FORCE:

# What is chosen at run time; the rest of the library runs on any CPU.
ISA_avx2 := -mavx2 -mfma -mf16c
ISA_avx512 := $(ISA_avx2) -mavx512f -mavx512bw -mavx512dq -mavx512vl
ISA_avx512vnni := $(ISA_avx512) -mavx512vnni
$(B)/obj/libkvtier/x86/%.o: EXTRA_CFLAGS = -Ilibkvtier $(ISA_$(firstword $(subst _, ,$(notdir $*))))
$(B)/obj/tools/%.o: EXTRA_CFLAGS = -Ilibkvtier -Itools -DKVTIER_LIBDIR='"$(LIBDIR)/kvtier"'
$(B)/obj/daemon/%.o: EXTRA_CFLAGS = -Ilibkvtier
# Exceptions of an engine pass through the shim, which clears up behind them.
$(B)/obj/tools/preload/shim.o: EXTRA_CFLAGS = -fexceptions
$(B)/obj/tests/daemon/%.o: EXTRA_CFLAGS = -Ilibkvtier
$(B)/obj/demo/%.o: EXTRA_CFLAGS = $(ENGINE_CFLAGS)
$(B)/obj/tests/bench/decode_weights.o: EXTRA_CFLAGS = -O3 -march=native
$(B)/obj/tests/bench/attend_ggml.o: EXTRA_CFLAGS = $(ENGINE_CFLAGS)
$(B)/obj/tests/unit/%.o: EXTRA_CFLAGS = -Ilibkvtier -Itools

$(B)/libkvtier.so.$(SOVERSION): $(call objects,$(LIB_SRC)) libkvtier/libkvtier.map
	$(Q_LD)$(CC) -shared $(ALL_LDFLAGS) -Wl,-soname,$(@F) \
		-Wl,--version-script=libkvtier/libkvtier.map $(if $(SANITIZE),,-Wl,-z,defs) \
		-o $@ $(filter %.o,$^) $(LIB_LIBS)

$(B)/libkvtier.so: $(B)/libkvtier.so.$(SOVERSION)
	$(Q_LN)ln -sf $(<F) $@

$(B)/libkvtier.a: $(call objects,$(LIB_SRC))
	$(Q_AR)rm -f $@ && $(AR) rcs $@ $^

$(B)/kvtier.pc: libkvtier/kvtier.pc.in $(B)/places
	$(Q_GEN)sed -e 's|@LIBDIR@|$(LIBDIR)|' -e 's|@INCLUDEDIR@|$(INCLUDEDIR)|' \
		-e 's|@PREFIX@|$(PREFIX)|' -e 's|@VERSION@|$(VERSION)|' \
		-e 's|@REQUIRES@|$(LIB_PACKAGES)|' $< >$@

$(B)/kvtier: $(call objects,$(TOOL_SRC)) $(B)/libkvtier.a
	$(Q_LD)$(CC) $(ALL_LDFLAGS) -o $@ $^ $(TOOL_LIBS) $(LIB_LIBS)

$(B)/kvtierd: $(call objects,$(DAEMON_SRC)) $(B)/libkvtier.a
	$(Q_LD)$(CC) $(ALL_LDFLAGS) -o $@ $^ $(DAEMON_LIBS) $(LIB_LIBS)

# The shim carries its own copy of the library and shows an engine none of it.
$(B)/libkvtier-preload.so: $(call objects,$(PRELOAD_SRC)) $(B)/libkvtier.a \
		tools/preload/preload.map
	$(Q_LD)$(CC) -shared $(ALL_LDFLAGS) -Wl,--exclude-libs,ALL \
		-Wl,--version-script=tools/preload/preload.map \
		$(if $(SANITIZE),,-Wl,-z,defs) -o $@ $(filter-out %.map,$^) $(LIB_LIBS) -ldl

# The engine itself is loaded at run time: nothing of it is linked.
$(B)/demo.a: $(filter-out $(call objects,$(DEMO_MAIN)),$(call objects,$(DEMO_SRC)))
	$(Q_AR)rm -f $@ && $(AR) rcs $@ $^

$(DEMO_BIN): $(B)/%: $(B)/obj/demo/%.o $(B)/demo.a
	$(Q_LD)$(CC) $(ALL_LDFLAGS) -o $@ $^ -Wl,--as-needed $(TOOL_LIBS) $(LIB_LIBS) -ldl -lm

# The suite sees what a user of the library sees: the shared object's exports.
$(B)/conformance: $(call objects,$(CONFORMANCE_SRC)) $(B)/libkvtier.so
	$(Q_LD)$(CC) $(ALL_LDFLAGS) -o $@ $(filter %.o,$^) -L$(B) -lkvtier -pthread \
		-Wl,-rpath,'$$ORIGIN'

$(BENCH_BIN): $(B)/%: $(B)/obj/tests/bench/%.o $(B)/libkvtier.so
	$(Q_LD)$(CC) $(ALL_LDFLAGS) -o $@ $< -L$(B) -lkvtier -pthread -Wl,-rpath,'$$ORIGIN'

$(B)/bench-attend: $(call objects,$(ATTEND_SRC)) $(B)/libkvtier.so
	$(Q_LD)$(CC) $(ALL_LDFLAGS) -o $@ $(filter %.o,$^) -L$(B) -lkvtier -pthread -ldl -lm \
		-Wl,-rpath,'$$ORIGIN'

$(B)/bench-decode: $(call objects,$(DECODE_SRC)) $(B)/libkvtier.so
	$(Q_LD)$(CC) $(ALL_LDFLAGS) -o $@ $(filter %.o,$^) -L$(B) -lkvtier -pthread -lm \
		-Wl,-rpath,'$$ORIGIN'

$(B)/bench-share: $(call objects,$(SHARE_SRC) $(addprefix tests/bench/decode_,model.c weights.c)) \
		$(B)/libkvtier.so
	$(Q_LD)$(CC) $(ALL_LDFLAGS) -o $@ $(filter %.o,$^) -L$(B) -lkvtier $(PACKAGE_LIBS) -pthread -lm \
		-Wl,-rpath,'$$ORIGIN'

# The example decoder, over a sequence in a pool of kvtierd.
$(B)/bench-restart: $(call objects,$(RESTART_SRC) $(addprefix examples/decode/,forward.c gguf.c \
		model.c vocab.c)) $(B)/libkvtier.so
	$(Q_LD)$(CC) $(ALL_LDFLAGS) -o $@ $(filter %.o,$^) -L$(B) -lkvtier -pthread -lm \
		-Wl,-rpath,'$$ORIGIN'

# So do the programs of tests/seq; what several of them need is in files without a main().
SEQ_PARTS = $(call objects,$(filter-out $(SEQ_MAIN),$(SEQ_SRC)))
$(SEQ_BIN): $(B)/tests/seq/%: $(B)/obj/tests/seq/%.o $(SEQ_PARTS) $(B)/libkvtier.so
	$(Q_LD)mkdir -p $(@D) && $(CC) $(ALL_LDFLAGS) -o $@ $(filter %.o,$^) -L$(B) -lkvtier \
		-pthread -lm -Wl,-rpath,'$$ORIGIN/../..'

# Examples are built like a user's program: the headers and the shared object.
$(patsubst %,$(B)/examples/%,$(basename $(notdir $(EXAMPLE_SRC)))): $(B)/examples/%: \
		$(B)/obj/examples/%.o $(B)/libkvtier.so
	$(Q_LD)mkdir -p $(@D) && $(CC) $(ALL_LDFLAGS) -o $@ $< -L$(B) -lkvtier -pthread -lm \
		-Wl,-rpath,'$$ORIGIN/..'

$(B)/examples/decode: $(call objects,$(DECODER_SRC)) $(B)/libkvtier.so
	$(Q_LD)mkdir -p $(@D) && $(CC) $(ALL_LDFLAGS) -o $@ $(filter %.o,$^) -L$(B) -lkvtier \
		-pthread -lm -Wl,-rpath,'$$ORIGIN/..'

# Clients of the daemon, which know the protocol too; what they share is in files without main().
DAEMON_TEST_PARTS = $(call objects,$(filter-out $(DAEMON_TEST_MAIN) tests/daemon/spoil.c, \
	$(DAEMON_TEST_SRC)) $(SLOW_DISK_SRC))
$(patsubst tests/daemon/%.c,$(B)/tests/daemon/%,$(DAEMON_TEST_MAIN)): $(B)/tests/daemon/%: $(B)/obj/tests/daemon/%.o $(DAEMON_TEST_PARTS) \
		$(B)/libkvtier.a
	$(Q_LD)mkdir -p $(@D) && $(CC) $(ALL_LDFLAGS) -o $@ $(filter %.o %.a,$^) $(LIB_LIBS)

# A daemon whose transfers fail when a case says so.
$(B)/tests/daemon/kvtierd: $(call objects,$(DAEMON_SRC) tests/daemon/spoil.c) $(B)/libkvtier.a
	$(Q_LD)mkdir -p $(@D) && $(CC) $(ALL_LDFLAGS) -o $@ $^ $(DAEMON_LIBS) $(LIB_LIBS) -ldl

# Programs that the tests of the command look at.
$(TOOL_TEST_BIN): $(B)/tests/tools/%: $(B)/obj/tests/tools/%.o $(B)/libkvtier.so
	$(Q_LD)mkdir -p $(@D) && $(CC) $(ALL_LDFLAGS) -o $@ $< -L$(B) -lkvtier -pthread \
		-Wl,-rpath,'$$ORIGIN/../..'

# What suites of tests/vm run in the guest; they know the kernel's header alone.
$(VM_BIN): $(B)/tests/vm/%: $(B)/obj/tests/vm/%.o
	$(Q_LD)mkdir -p $(@D) && $(CC) $(ALL_LDFLAGS) -o $@ $<

# Unit tests reach inside: static objects, of the tools too except their main().
$(B)/tools.a: $(filter-out %/main.o,$(call objects,$(TOOL_SRC)))
	$(Q_AR)rm -f $@ && $(AR) rcs $@ $^

$(B)/tests/unit/%: $(B)/obj/tests/unit/%.o $(B)/tools.a $(B)/libkvtier.a
	$(Q_LD)mkdir -p $(@D) && $(CC) $(ALL_LDFLAGS) -o $@ $^ $(TEST_LIBS) $(TOOL_LIBS) $(LIB_LIBS)

-include $(patsubst %.o,%.d,$(call objects,$(ALL_SRC)))
