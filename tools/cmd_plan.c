// SPDX-License-Identifier: MIT
/* kvtier plan: what a model's KV cache costs, and how much context each tier has room for. */
#define _GNU_SOURCE
#include <stdio.h>
#include <string.h>
#include <sys/statvfs.h>

#include <cjson/cJSON.h>

#include "command.h"
#include "gguf.h"
#include "host.h"
#include "option.h"
#include "print.h"
#include "pools.h"
#include "size.h"

static const struct option options[] = {
	{ "keys", required_argument, NULL, 'k' },
	{ "values", required_argument, NULL, 'v' },
	{ "dram", required_argument, NULL, 'd' },
	{ "cxl", required_argument, NULL, 'c' },
	{ "nvme", required_argument, NULL, 'n' },
	OPTIONS_OF_ALL,
};

/* As llama.cpp's -ctk and -ctv: elements of a group, and its bytes. */
static const struct type {
	const char *name;
	uint32_t group, bytes;
} types[] = {
	{ "f32", 1, 4 },     { "f16", 1, 2 },	  { "bf16", 1, 2 },    { "q8_0", 32, 34 },
	{ "q4_0", 32, 18 },  { "q4_1", 32, 20 },  { "iq4_nl", 32, 18 }, { "q5_0", 32, 22 },
	{ "q5_1", 32, 24 },
};

#define NR_TYPES (sizeof(types) / sizeof(types[0]))

struct plan {
	const struct type *keys, *values;
	uint64_t room[KVTIER_NR_TIERS];
	struct gguf_model model;
	uint64_t token_bytes;
};

static int help(void)
{
	puts("usage: kvtier plan [OPTION...] MODEL.gguf\n\n"
	     "Say how many bytes of KV cache a token of MODEL takes, and the largest context\n"
	     "that each tier has room for.\n\n"
	     "  --keys TYPE    type of the keys: f32, f16 (default), bf16, q8_0, q5_0, q5_1,\n"
	     "                 q4_0, q4_1, iq4_nl\n"
	     "  --values TYPE  type of the values (default: that of the keys)\n"
	     "  --dram SIZE    DRAM for the cache (default: half of what is available now)\n"
	     "  --cxl SIZE     CXL memory for it (default: none)\n"
	     "  --nvme SIZE    NVMe for it (default: what is free on the disk that\n"
	     "                 kvtier run would choose)\n"
	     "  --json         one JSON object\n"
	     "  -h, --help     show this help\n\n"
	     "Exit status: 0; 1 the file is not a GGUF model with attention; 2 usage.");
	return 0;
}

static int take_type(const char *option, const char *text, const struct type **type)
{
	size_t i;

	for (i = 0; i < NR_TYPES; i++) {
		if (!strcmp(types[i].name, text)) {
			*type = &types[i];
			return 0;
		}
	}
	return fail(EXIT_USAGE, "--%s: there is no type '%s': see `kvtier plan --help`", option,
		    text);
}

static int take_room(struct plan *p, int tier, const char *text)
{
	if (!strcmp(text, "0")) {
		p->room[tier] = 0;
		return 0;
	}
	if (size_parse(text, &p->room[tier]))
		return fail(EXIT_USAGE, "--%s: '%s' is not a size such as 512M or 8G",
			    tier_names[tier], text);
	return 0;
}

static int take_option(void *command, int option)
{
	struct plan *p = command;

	switch (option) {
	case 'k':
		return take_type("keys", optarg, &p->keys);
	case 'v':
		return take_type("values", optarg, &p->values);
	case 'd':
		return take_room(p, KVTIER_TIER_DRAM, optarg);
	case 'c':
		return take_room(p, KVTIER_TIER_CXL, optarg);
	default:
		return take_room(p, KVTIER_TIER_NVME, optarg);
	}
}

/* 0, an exit code, or -1: help was asked for. */
static int parse(struct plan *p, int argc, char **argv)
{
	static const struct option_set set = { ":h", options, EXIT_USAGE, take_option };
	int ret = option_take(argc, argv, &set, p);

	if (!ret && optind == argc)
		return fail(EXIT_USAGE, "no MODEL: kvtier plan [OPTION...] MODEL.gguf");
	return ret ?: option_end(argc, argv, 1);
}

/* Rows are stored in whole groups. */
static uint64_t row_bytes(const struct type *type, uint64_t elements)
{
	return (elements + type->group - 1) / type->group * type->bytes;
}

static uint64_t token_bytes(const struct plan *p)
{
	const struct gguf_model *m = &p->model;
	uint64_t bytes = 0;
	uint32_t i;

	if (m->latent)
		return m->layers * row_bytes(p->keys, m->latent);
	for (i = 0; i < m->layers; i++)
		bytes += row_bytes(p->keys, (uint64_t)m->kv_heads[i] * m->key_length) +
			 row_bytes(p->values, (uint64_t)m->kv_heads[i] * m->value_length);
	return bytes;
}

static uint32_t layers_with_cache(const struct gguf_model *m)
{
	uint32_t i, nr = 0;

	for (i = 0; i < m->layers; i++)
		nr += m->latent || m->kv_heads[i];
	return nr;
}

static uint64_t free_on_disk(void)
{
	struct statvfs fs;
	char dir[4096];

	if (!host_nvme_dir(dir, sizeof(dir)) || statvfs(dir, &fs))
		return 0;
	return (uint64_t)fs.f_bavail * fs.f_frsize;
}

static int print_json(const struct plan *p)
{
	const struct gguf_model *m = &p->model;
	cJSON *o = cJSON_CreateObject(), *tiers, *tier;
	uint64_t sum = 0, tokens;
	int t;

	cJSON_AddStringToObject(o, "architecture", m->architecture);
	cJSON_AddStringToObject(o, "name", m->name);
	cJSON_AddNumberToObject(o, "layers", layers_with_cache(m));
	cJSON_AddStringToObject(o, "keys", p->keys->name);
	cJSON_AddStringToObject(o, "values", p->values->name);
	cJSON_AddNumberToObject(o, "token_bytes", (double)p->token_bytes);
	cJSON_AddNumberToObject(o, "trained_context", (double)m->context);
	cJSON_AddNumberToObject(o, "sliding_window", m->window);
	tiers = cJSON_AddObjectToObject(o, "tiers");
	for (t = KVTIER_TIER_DRAM; t < KVTIER_NR_TIERS; t++) {
		sum += p->room[t];
		tier = cJSON_AddObjectToObject(tiers, tier_names[t]);
		cJSON_AddNumberToObject(tier, "bytes", (double)p->room[t]);
		tokens = p->room[t] / p->token_bytes;
		cJSON_AddNumberToObject(tier, "tokens", (double)tokens);
		tokens = sum / p->token_bytes;
		cJSON_AddNumberToObject(tier, "context", (double)tokens);
	}
	return print_object(o);
}

static int print(const struct plan *p)
{
	const struct gguf_model *m = &p->model;
	char bytes[SIZE_TEXT], room[SIZE_TEXT];
	uint64_t sum = 0;
	int t;

	printf("%s (%s): %s of KV cache a token, in %u layers; keys %s, values %s\n",
	       m->name[0] ? m->name : "model", m->architecture, size_text(p->token_bytes, bytes),
	       layers_with_cache(m), p->keys->name, p->values->name);
	for (t = KVTIER_TIER_DRAM; t < KVTIER_NR_TIERS; t++) {
		if (!p->room[t])
			continue;
		sum += p->room[t];
		printf("  %-5s %7s  %12llu tokens, a context of %llu down to here\n", tier_names[t],
		       size_text(p->room[t], room),
		       (unsigned long long)(p->room[t] / p->token_bytes),
		       (unsigned long long)(sum / p->token_bytes));
	}
	if (m->context)
		printf("  trained for a context of %llu tokens: %s\n",
		       (unsigned long long)m->context,
		       size_text(m->context * p->token_bytes, bytes));
	if (m->window)
		printf("  sliding window of %u tokens: layers that have it need no more than that\n",
		       m->window);
	return 0;
}

int cmd_plan(int argc, char **argv)
{
	struct plan p = { .room = { [KVTIER_TIER_DRAM] = host_memory() / 2,
				    [KVTIER_TIER_NVME] = free_on_disk() } };
	char why[256];
	int ret;

	ret = parse(&p, argc, argv);
	if (ret)
		return ret < 0 ? help() : ret;
	p.keys = p.keys ? p.keys : &types[1];
	p.values = p.values ? p.values : p.keys;
	if (gguf_read(argv[optind], &p.model, why, sizeof(why)))
		return fail(1, "%s: %s", argv[optind], why);
	p.token_bytes = token_bytes(&p);
	if (!p.token_bytes)
		return fail(1, "%s: no layer of this model has a KV cache", argv[optind]);
	return json_errors ? print_json(&p) : print(&p);
}
