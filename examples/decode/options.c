// SPDX-License-Identifier: MIT
#include <err.h>
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <kvtier_seq.h>

#include "options.h"

static const char usage[] =
	"usage: decode --model FILE [OPTION...]\n"
	"\n"
	"Runs a llama model whose keys and values are in libkvtier, and prints the greedy text.\n"
	"\n"
	"  --model FILE        a GGUF: f32, f16, bf16, q8_0 or q4_0\n"
	"  --prompt TEXT       what to go on from (\"Once upon a time\")\n"
	"  --tokens N          how many tokens to generate (200)\n"
	"  --dram SIZE         memory for keys and values, like 1M (all of them)\n"
	"  --nvme DIR          where the rest goes (.)\n"
	"  --type TYPE         keys and values: f32 f16 bf16 e4m3 e5m2 int8 int4 q8_0 q4_0 (f16)\n"
	"  --block-tokens N    tokens of an extent (16)\n"
	"  --threads N         for attention (1)\n"
	"  --policy NAME       keep, window, fifo, lru, lfu or heavy; with +merge or +summary\n"
	"  --budget N          tokens that a policy keeps (128)\n"
	"  --sinks N           ... of them, the first (4)\n"
	"  --window N          ... and the last (64)\n"
	"  --spec N            let a draft guess N tokens ahead\n"
	"  --draft-layers N    ... which is the model's first N layers (all but one)\n"
	"  --no-cache          compute all keys and values anew for each token\n"
	"  --table             compare: without cache, in memory, mostly on NVMe\n"
	"  --perplexity        of a text, by policy and type\n"
	"  --text FILE         that text\n";

static const struct option names[] = {
	{ "model", required_argument, NULL, 'm' },
	{ "prompt", required_argument, NULL, 'p' },
	{ "tokens", required_argument, NULL, 'n' },
	{ "dram", required_argument, NULL, 'd' },
	{ "nvme", required_argument, NULL, 'N' },
	{ "type", required_argument, NULL, 't' },
	{ "block-tokens", required_argument, NULL, 'b' },
	{ "threads", required_argument, NULL, 'T' },
	{ "policy", required_argument, NULL, 'P' },
	{ "budget", required_argument, NULL, 'B' },
	{ "sinks", required_argument, NULL, 'S' },
	{ "window", required_argument, NULL, 'W' },
	{ "spec", required_argument, NULL, 's' },
	{ "draft-layers", required_argument, NULL, 'l' },
	{ "no-cache", no_argument, NULL, 'c' },
	{ "table", no_argument, NULL, 'a' },
	{ "perplexity", no_argument, NULL, 'x' },
	{ "text", required_argument, NULL, 'f' },
	{ "help", no_argument, NULL, 'h' },
	{ 0 },
};

static uint32_t number(const char *name, const char *text, uint32_t least, uint32_t most)
{
	char *end;
	unsigned long value = strtoul(text, &end, 10);

	if (end == text || *end || *text == '-' || value < least || value > most)
		errx(2, "--%s %s: expected a number from %u to %u", name, text, least, most);
	return (uint32_t)value;
}

static uint64_t size(const char *text)
{
	char *end;
	unsigned long long value = strtoull(text, &end, 10);
	unsigned int shift = *end == 'K' ? 10 : *end == 'M' ? 20 : *end == 'G' ? 30 : 0;

	if (end == text || *text == '-' || (shift ? end[1] : end[0]) || !value || value >> 40)
		errx(2, "--dram %s: expected a size like 512K, 1M or 2G", text);
	return (uint64_t)value << shift;
}

bool options_policy(const char *name, uint32_t *kind, uint32_t *flags)
{
	static const char *const kinds[] = { "keep", "window", "fifo", "lru", "lfu", "heavy" };
	size_t bytes = strcspn(name, "+");
	const char *plus = name + bytes;

	for (*kind = 0; *kind < 6; ++*kind)
		if (strlen(kinds[*kind]) == bytes && !strncmp(kinds[*kind], name, bytes))
			break;
	*flags = !strcmp(plus, "+merge") ? KVT_POLICY_MERGE :
		 !strcmp(plus, "+summary") ? KVT_POLICY_SUMMARY : 0;
	return *kind < 6 && (!*plus || *flags);
}

static void set(struct options *o, int opt, const char *name)
{
	int type;

	switch (opt) {
	case 'm': o->model = optarg; break;
	case 'p': o->prompt = optarg; break;
	case 'n': o->tokens = number(name, optarg, 1, 1u << 24); break;
	case 'd': o->dram = size(optarg); break;
	case 'N': o->nvme = optarg; break;
	case 'b': o->block_tokens = number(name, optarg, 1, 65536); break;
	case 'T': o->threads = number(name, optarg, 1, 1024); break;
	case 'B': o->budget = number(name, optarg, 1, 1u << 30); break;
	case 'S': o->sinks = number(name, optarg, 0, 1u << 20); break;
	case 'W': o->window = number(name, optarg, 1, 1u << 30); break;
	case 's': o->spec = number(name, optarg, 1, 32); break;
	case 'l': o->draft_layers = number(name, optarg, 1, 1024); break;
	case 'c': o->no_cache = true; break;
	case 'a': o->table = true; break;
	case 'x': o->perplexity = true; break;
	case 'f': o->text = optarg; break;
	case 't':
		type = kvt_type_named(optarg);
		if (type < 0)
			errx(2, "--type %s: %s", optarg, kvt_error_detail());
		o->type = (uint32_t)type;
		break;
	case 'P':
		if (!options_policy(optarg, &o->policy, &o->flags))
			errx(2, "--policy %s: expected keep, window, fifo, lru, lfu or heavy, with "
				"+merge or +summary", optarg);
		break;
	case 'h':
		fputs(usage, stdout);
		exit(0);
	default:
		fputs("decode: try --help\n", stderr);
		exit(2);
	}
}

void options_parse(struct options *o, int argc, char **argv)
{
	int opt, at = 0;

	*o = (struct options){ .prompt = "Once upon a time", .nvme = ".", .tokens = 200,
			       .block_tokens = 16, .threads = 1, .type = KVT_F16, .budget = 128,
			       .sinks = 4, .window = 64 };
	while ((opt = getopt_long(argc, argv, "", names, &at)) != -1)
		set(o, opt, names[at].name);
	if (optind < argc)
		errx(2, "%s: not an option; try --help", argv[optind]);
	if (!o->model)
		errx(2, "no model: name a GGUF with --model");
	if (o->spec && o->no_cache)
		errx(2, "--spec guesses ahead of a cache: leave --no-cache out");
	if (o->spec && o->policy)
		errx(2, "--spec rolls the whole cache back: leave --policy out");
}
