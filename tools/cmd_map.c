// SPDX-License-Identifier: MIT
/* kvtier map: where each block of a pool is, and how hot. */
#define _GNU_SOURCE
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <cjson/cJSON.h>

#include "blocks.h"
#include "command.h"
#include "heatmap.h"
#include "option.h"
#include "print.h"
#include "size.h"

static const struct option options[] = {
	{ "svg", required_argument, NULL, 's' },
	{ "width", required_argument, NULL, 'w' },
	{ "color", required_argument, NULL, 'c' },
	OPTIONS_OF_ALL,
};

struct map {
	const char *svg;
	int width; /* 0: the terminal's */
	bool color;
};

static int help(void)
{
	puts("usage: kvtier map [OPTION...] POOL\n\n"
	     "Show the tier and heat of the blocks of POOL: a name, a process, poolN of the\n"
	     "module, or TENANT/NAME of the daemon.\n\n"
	     "  --svg FILE     write a picture to FILE instead\n"
	     "  --width N      cells in a line (default: the terminal's)\n"
	     "  --color WHEN   auto (default), always or never\n"
	     "  --json         one JSON object with a tier, state and heat of every block\n"
	     "  -h, --help     show this help\n\n"
	     "Exit status: 0; 1 the pool is not there or cannot be asked; 2 usage.");
	return 0;
}

static int take_option(void *command, int option)
{
	struct map *m = command;
	double width;

	switch (option) {
	case 's':
		m->svg = optarg;
		return 0;
	case 'w':
		if (option_number("width", optarg, 8, 1000, &width))
			return EXIT_USAGE;
		m->width = (int)width;
		return 0;
	default:
		if (strcmp(optarg, "auto") && strcmp(optarg, "always") && strcmp(optarg, "never"))
			return fail(EXIT_USAGE, "--color: '%s' is not auto, always or never",
				    optarg);
		m->color = !strcmp(optarg, "always") || (optarg[1] == 'u' && m->color);
		return 0;
	}
}

/* 0, an exit code, or -1: help was asked for. */
static int parse(struct map *m, int argc, char **argv)
{
	static const struct option_set set = { ":h", options, EXIT_USAGE, take_option };
	int ret = option_take(argc, argv, &set, m);

	if (ret)
		return ret;
	if (optind + 1 != argc)
		return fail(EXIT_USAGE, "one POOL is wanted: `kvtier pool` lists them");
	return 0;
}

static int terminal_width(void)
{
	struct winsize size;

	if (ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) || !size.ws_col)
		return 64;
	return size.ws_col > 22 ? size.ws_col - 14 : 8; /* without what stands before the cells */
}

/* Block by block: as one tree, a million of them would take half a GiB. */
static int print_json(const struct blocks *b, const struct pool_ref *ref)
{
	cJSON *o = cJSON_CreateObject();
	const struct kvt_stat_block *block;
	char *head;

	cJSON_AddStringToObject(o, "name", ref->file->name);
	cJSON_AddStringToObject(o, "source", b->source);
	cJSON_AddBoolToObject(o, "heat_known", b->heat);
	cJSON_AddNumberToObject(o, "block_bytes", (double)b->block_bytes);
	head = cJSON_PrintUnformatted(o);
	cJSON_Delete(o);
	if (!head)
		return fail(1, "out of memory");
	printf("%.*s,\"blocks\":[", (int)strlen(head) - 1, head);
	cJSON_free(head);
	for (block = b->block; block < b->block + b->nr; block++)
		printf("%s{\"tier\":\"%s\",\"state\":\"%s\",\"heat\":%u}",
		       block > b->block ? "," : "", tier_names[block->tier % KVTIER_NR_TIERS],
		       heatmap_state(block->state), block->heat);
	puts("]}");
	return 0;
}

static int write_svg(const struct map *m, const struct blocks *b, const struct pool_ref *ref)
{
	FILE *f = fopen(m->svg, "we");

	if (!f)
		return fail(1, "--svg: cannot write %s: %s", m->svg, strerror(errno));
	heatmap_svg(f, b, ref->file->name, m->width ? m->width : 128);
	if (fclose(f))
		return fail(1, "--svg: cannot write %s: %s", m->svg, strerror(errno));
	return 0;
}

static int show(const struct map *m, const struct blocks *b, const struct pool_ref *ref)
{
	if (m->svg)
		return write_svg(m, b, ref);
	if (json_errors)
		return print_json(b, ref);
	heatmap_text(stdout, b, ref->file->name, m->width ? m->width : terminal_width(), m->color);
	return 0;
}

/* https://no-color.org: set, and not empty. */
static bool color_wanted(void)
{
	const char *no = getenv("NO_COLOR"), *term = getenv("TERM");

	return isatty(STDOUT_FILENO) && !(no && *no) && !(term && !strcmp(term, "dumb"));
}

int cmd_map(int argc, char **argv)
{
	struct map m = { .color = color_wanted() };
	struct blocks blocks = { 0 };
	struct pool_ref ref;
	struct system s;
	int ret = parse(&m, argc, argv);

	if (ret)
		return ret < 0 ? help() : ret;
	ret = system_look(&s) ?: system_find(&s, argv[optind], &ref);
	if (!ret && blocks_read(&s, &ref, &blocks))
		ret = fail(1, "%s", blocks.why);
	if (!ret)
		ret = show(&m, &blocks, &ref);
	blocks_free(&blocks);
	system_close(&s);
	return ret;
}
