// SPDX-License-Identifier: MIT
#include <err.h>
#include <getopt.h>
#include <limits.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "options.h"

static const char usage[] =
	"usage: generate --engine DIR --model FILE (--prompt TEXT | --prompt-tokens N) [options]\n"
	"  --engine DIR        folder with libllama and libggml\n"
	"  --model FILE        GGUF model\n"
	"  --prompt TEXT       prompt\n"
	"  --prompt-tokens N   instead: N pseudo-random tokens, the same in every run\n"
	"  --gen N             tokens to generate, end-of-text or not (32)\n"
	"  --ctx N             context size (what prompt and generation need)\n"
	"  --threads N         threads (1)\n"
	"  --batch N           prompt tokens decoded at once; also --ubatch (512)\n"
	"  --flash-attn V      0, 1 or auto (auto)\n"
	"  --cpu VARIANT       force libggml-cpu-VARIANT.so\n"
	"  --contexts N        create N contexts, then run each in turn (1)\n"
	"  --save-state FILE   keep the prompt's state; --load-state FILE takes it instead of\n"
	"                      decoding the prompt again\n"
	"  --json FILE         write the result as JSON; - is stdout\n"
	"  --text FILE         write the generated text; - is stdout\n"
	"  --mark-fd N         write \"gen\" to this descriptor when generation starts\n"
	"  -v                  show the engine's messages\n"
	"A SIGTERM or SIGINT stops early; what was done is reported and the exit status is 2.\n";

/* Where an option's value goes: a number of at least @min, or (@min < 0) a string. */
static const struct field {
	const char *name;
	size_t offset;
	int min;
} fields[] = {
#define TEXT(name, member) { name, offsetof(struct options, member), -1 }
#define NUMBER(name, member, min) { name, offsetof(struct options, member), min }
	TEXT("engine", engine),
	TEXT("model", model),
	TEXT("prompt", prompt),
	NUMBER("prompt-tokens", prompt_tokens, 1),
	NUMBER("gen", gen, 0),
	NUMBER("ctx", ctx, 1),
	NUMBER("threads", threads, 1),
	NUMBER("batch", batch, 1),
	NUMBER("ubatch", batch, 1),
	TEXT("flash-attn", flash),
	TEXT("cpu", cpu),
	NUMBER("contexts", contexts, 1),
	TEXT("save-state", save),
	TEXT("load-state", load),
	TEXT("json", json),
	TEXT("text", text),
	NUMBER("mark-fd", mark_fd, 0),
};

#define NR_FIELDS (sizeof(fields) / sizeof(fields[0]))
/* Key of the first field's long option: beyond every short one. */
#define FIELD_KEY 256

static int number(const char *text, const char *what, int min)
{
	char *end;
	long value = strtol(text, &end, 10);

	if (end == text || *end || value < min || value > INT_MAX / 2)
		errx(1, "--%s: \"%s\" is not a number from %d on", what, text, min);
	return value;
}

static enum llama_flash_attn_type flash_attn(const char *text)
{
	if (!strcmp(text, "0"))
		return LLAMA_FLASH_ATTN_TYPE_DISABLED;
	if (!strcmp(text, "1"))
		return LLAMA_FLASH_ATTN_TYPE_ENABLED;
	if (!strcmp(text, "auto"))
		return LLAMA_FLASH_ATTN_TYPE_AUTO;
	errx(1, "--flash-attn: \"%s\" is not 0, 1 or auto", text);
}

static void take_field(struct options *o, const struct field *f)
{
	char *at = (char *)o + f->offset;

	if (f->min < 0)
		*(const char **)at = optarg;
	else
		*(int *)at = number(optarg, f->name, f->min);
}

static void take_option(struct options *o, int key)
{
	if (key >= FIELD_KEY) {
		take_field(o, &fields[key - FIELD_KEY]);
	} else if (key == 'v') {
		o->verbose = 1;
	} else if (key == 'h') {
		fputs(usage, stdout);
		exit(0);
	} else {
		errx(1, "try generate --help");
	}
}

static void list_options(struct option *list)
{
	size_t i;

	for (i = 0; i < NR_FIELDS; i++)
		list[i] = (struct option){ fields[i].name, required_argument, NULL, FIELD_KEY + i };
	list[i++] = (struct option){ "help", no_argument, NULL, 'h' };
	list[i] = (struct option){ 0 };
}

void parse_options(struct options *o, int argc, char **argv)
{
	struct option long_options[NR_FIELDS + 2];
	int key;

	*o = (struct options){ .gen = 32, .threads = 1, .batch = 512, .contexts = 1, .mark_fd = -1,
			       .flash = "auto" };
	list_options(long_options);
	while ((key = getopt_long(argc, argv, "vh", long_options, NULL)) != -1)
		take_option(o, key);
	if (optind < argc)
		errx(1, "unexpected argument \"%s\"; try generate --help", argv[optind]);
	if (!o->engine || !o->model || !o->prompt == !o->prompt_tokens)
		errx(1, "--engine, --model and one of --prompt and --prompt-tokens are needed; "
			"try generate --help");
	if (o->contexts > 1 && (o->save || o->load))
		errx(1, "--save-state and --load-state work with one context");
	o->flash_attn = flash_attn(o->flash);
}
