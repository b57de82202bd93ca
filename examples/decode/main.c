// SPDX-License-Identifier: MIT
/*
 * decode: a small complete decoder whose keys and values, and the attention over them, are
 * in libkvtier.  `decode --help` says what it can show.
 */
#include <err.h>

#include "tables.h"

static struct kvt_attend *open_attention(const struct options *o)
{
	struct kvt_attend_config config = KVT_ATTEND_CONFIG_INIT;
	struct kvt_attend *attend;

	config.threads = o->threads;
	if (kvt_attend_create(&config, &attend))
		errx(1, "%s", kvt_error_detail());
	return attend;
}

static void generate(const struct model *m, const struct options *o, struct kvt_attend *attend)
{
	struct text t;

	text_open(&t, m, o);
	if (o->no_cache)
		generate_uncached(&t, m, o, attend);
	else if (o->spec)
		generate_speculating(&t, m, o, attend);
	else
		generate_plain(&t, m, o, attend, o->dram);
	text_print(&t, m);
	text_close(&t);
}

int main(int argc, char **argv)
{
	struct options o;
	struct model m;
	struct kvt_attend *attend;
	int ret = 0;

	options_parse(&o, argc, argv);
	model_load(&m, o.model);
	attend = open_attention(&o);
	if (o.perplexity)
		table_perplexity(&m, &o, attend);
	if (o.table)
		ret = table_cache(&m, &o, attend);
	if (!o.perplexity && !o.table)
		generate(&m, &o, attend);
	kvt_attend_destroy(attend);
	model_free(&m);
	return ret;
}
