// SPDX-License-Identifier: MIT
/* kvtier scrub: have the daemon verify what its pools have on NVMe. */
#define _GNU_SOURCE
#include <stdio.h>
#include <time.h>
#include <unistd.h>

#include <cjson/cJSON.h>

#include "command.h"
#include "option.h"
#include "print.h"
#include "progress.h"
#include "system.h"

static const struct option options[] = {
	{ "all", no_argument, NULL, 'a' },
	{ "background", no_argument, NULL, 'b' },
	OPTIONS_OF_ALL,
};

struct scrub {
	bool all;
	bool background;
};

static int help(void)
{
	puts("usage: kvtier scrub [OPTION...] POOL\n"
	     "       kvtier scrub [OPTION...] --all\n\n"
	     "Have kvtierd read the blocks that POOL has on NVMe and compare their checksums.\n\n"
	     "  --all         all pools of the daemon\n"
	     "  --background  begin, and do not wait for the end\n"
	     "  --json        one JSON object\n"
	     "  -h, --help    show this help\n\n"
	     "Exit status: 0 all that was read was right; 1 a block is bad, or there is no such\n"
	     "pool or no daemon; 2 usage.");
	return 0;
}

static int take_option(void *command, int option)
{
	struct scrub *c = command;

	c->all |= option == 'a';
	c->background |= option == 'b';
	return 0;
}

/* 0, an exit code, or -1: help was asked for. */
static int parse(struct scrub *c, int argc, char **argv)
{
	static const struct option_set set = { ":h", options, EXIT_USAGE, take_option };
	int ret = option_take(argc, argv, &set, c);

	if (ret)
		return ret;
	if (c->all && optind < argc)
		return fail(EXIT_USAGE, "--all and '%s': one of them", argv[optind]);
	if (!c->all && optind + 1 != argc)
		return fail(EXIT_USAGE, "one POOL, or --all, is wanted: see `kvtier scrub --help`");
	return 0;
}

static int report(const struct kvt_daemon_scrub *found)
{
	cJSON *o;

	if (json_errors) {
		o = cJSON_CreateObject();
		cJSON_AddNumberToObject(o, "verified", (double)found->verified);
		cJSON_AddNumberToObject(o, "bad", (double)found->bad);
		cJSON_AddNumberToObject(o, "left", (double)found->left);
		cJSON_AddBoolToObject(o, "running", found->running);
		return print_object(o) ?: found->bad != 0;
	}
	printf("%llu blocks verified, %llu bad\n", (unsigned long long)found->verified,
	       (unsigned long long)found->bad);
	return found->bad != 0;
}

static int wait_for_end(struct kvt_client *client, struct kvt_daemon_scrub *found)
{
	static const struct timespec pause = { .tv_nsec = 50000000 };
	struct progress bar;
	int ret = kvt_daemon_scrub_status(client, found);

	progress_begin(&bar, "scrub", found->left + found->verified);
	while (!ret && found->running) {
		nanosleep(&pause, NULL);
		ret = kvt_daemon_scrub_status(client, found);
		bar.total = found->left + found->verified;
		if (bar.total)
			progress_at(&bar, found->verified);
	}
	progress_end(&bar);
	return ret;
}

static int run(struct system *s, const struct scrub *c, const char *name)
{
	struct kvt_daemon_scrub found = { 0 };
	struct pool_ref ref = { 0 };
	int ret = system_read(s);

	if (ret)
		return fail(1, "cannot read the pools' files");
	if (!c->all && system_find(s, name, &ref))
		return 1;
	if (!c->all && !ref.daemon)
		return fail(
			1,
			"%s is not a pool of kvtierd: its own pager verifies each block that it "
			"reads",
			name);
	ret = kvt_daemon_scrub(s->client, c->all ? 0 : ref.daemon->id);
	if (!ret && c->background)
		return json_errors ? report(&found) : 0;
	if (!ret)
		ret = wait_for_end(s->client, &found);
	if (ret)
		return fail(1, "the daemon cannot scrub: %s",
			    kvt_error_detail()[0] ? kvt_error_detail() : kvt_strerror(ret));
	return report(&found);
}

int cmd_scrub(int argc, char **argv)
{
	struct scrub c = { 0 };
	struct system s;
	int ret = parse(&c, argc, argv);

	if (ret)
		return ret < 0 ? help() : ret;
	if (system_need_daemon(&s, &ret))
		ret = run(&s, &c, c.all ? NULL : argv[optind]);
	system_close(&s);
	return ret;
}
