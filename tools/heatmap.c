// SPDX-License-Identifier: MIT
#include <string.h>

#include "heatmap.h"
#include "size.h"

#define LINES_MAX 40
#define CELL 8 /* pixels */

static const char *const states[KVTIER_NR_BLOCK_STATES] = {
	"empty", "open", "sealed", "clean", "cold_open", "cold", "moving", "bad",
};

const char *heatmap_state(uint8_t state)
{
	return state < KVTIER_NR_BLOCK_STATES ? states[state] : "unknown";
}

/* What a cell shows of its blocks: what most of them are, any bad one, the hottest. */
enum look { LOOK_EMPTY, LOOK_DRAM, LOOK_CXL, LOOK_NVME, LOOK_MOVING, LOOK_BAD, NR_LOOKS };

static const struct {
	const char *name;
	char cold, hot; /* letters of the terminal */
	int ansi;
	int rgb[3];
} looks[NR_LOOKS] = {
	[LOOK_EMPTY] = { "empty", '.', '.', 90, { 225, 225, 225 } },
	[LOOK_DRAM] = { "dram", 'd', 'D', 31, { 214, 69, 48 } },
	[LOOK_CXL] = { "cxl", 'c', 'C', 33, { 217, 142, 4 } },
	[LOOK_NVME] = { "nvme", 'n', 'N', 34, { 49, 104, 184 } },
	[LOOK_MOVING] = { "moving", '~', '~', 36, { 74, 160, 150 } },
	[LOOK_BAD] = { "bad", '!', '!', 35, { 0, 0, 0 } },
};

static enum look look_of(const struct kvt_stat_block *b)
{
	if (b->state == KVTIER_BLOCK_BAD)
		return LOOK_BAD;
	if (b->state == KVTIER_BLOCK_MOVING)
		return LOOK_MOVING;
	return b->tier < KVTIER_NR_TIERS ? (enum look)b->tier : LOOK_EMPTY;
}

struct cell {
	enum look look;
	uint8_t heat;
};

static struct cell cell_of(const struct blocks *b, uint64_t first, uint64_t nr)
{
	uint64_t count[NR_LOOKS] = { 0 }, i;
	struct cell cell = { .look = LOOK_EMPTY };
	int look;

	for (i = first; i < first + nr && i < b->nr; i++) {
		count[look_of(&b->block[i])]++;
		if (b->block[i].heat > cell.heat)
			cell.heat = b->block[i].heat;
	}
	for (look = 0; look < LOOK_MOVING; look++)
		if (count[look] > count[cell.look])
			cell.look = (enum look)look;
	if (count[LOOK_MOVING] && !count[LOOK_EMPTY] && !count[cell.look])
		cell.look = LOOK_MOVING;
	if (count[LOOK_BAD])
		cell.look = LOOK_BAD;
	return cell;
}

static uint64_t blocks_a_cell(const struct blocks *b, int width, int lines)
{
	uint64_t cells = (uint64_t)width * (uint64_t)lines;

	return b->nr <= cells ? 1 : (b->nr + cells - 1) / cells;
}

static void count_tiers(const struct blocks *b, uint64_t count[NR_LOOKS])
{
	uint64_t i;

	memset(count, 0, NR_LOOKS * sizeof(*count));
	for (i = 0; i < b->nr; i++)
		count[look_of(&b->block[i])]++;
}

/* ---- terminal ------------------------------------------------------------------ */

static void print_cell(FILE *out, struct cell cell, bool color)
{
	char letter = cell.heat >= 128 ? looks[cell.look].hot : looks[cell.look].cold;

	if (color)
		fprintf(out, "\033[%s%dm%c\033[0m", cell.heat >= 128 ? "1;" : "",
			looks[cell.look].ansi, letter);
	else
		fputc(letter, out);
}

void heatmap_text(FILE *out, const struct blocks *b, const char *name, int width, bool color)
{
	uint64_t each = blocks_a_cell(b, width, LINES_MAX), at, count[NR_LOOKS];
	char size[SIZE_TEXT];
	int look, x;

	fprintf(out, "%s: %llu blocks of %s, %llu a cell\n", name, (unsigned long long)b->nr,
		size_text(b->block_bytes, size), (unsigned long long)each);
	for (at = 0; at < b->nr;) {
		fprintf(out, "%12llu  ", (unsigned long long)at);
		for (x = 0; x < width && at < b->nr; x++, at += each)
			print_cell(out, cell_of(b, at, each), color);
		fputc('\n', out);
	}
	count_tiers(b, count);
	fputs("  ", out);
	for (look = 0; look < NR_LOOKS; look++)
		if (count[look])
			fprintf(out, "%c %s %llu  ", looks[look].cold, looks[look].name,
				(unsigned long long)count[look]);
	fputs(b->heat ? "(capitals: in use lately)\n" : "(heat is not known)\n", out);
}

/* ---- SVG ----------------------------------------------------------------------- */

void xml_text(FILE *out, const char *text)
{
	for (; *text; text++) {
		if (*text == '&')
			fputs("&amp;", out);
		else if (*text == '<')
			fputs("&lt;", out);
		else if (*text == '>')
			fputs("&gt;", out);
		else if (*text == '"')
			fputs("&quot;", out);
		else if ((unsigned char)*text >= ' ')
			fputc(*text, out);
	}
}

/* Cold ones are pale: a third of the colour, and white. */
static int tone(int channel, uint8_t heat, bool known)
{
	int part = known ? 90 + heat * 165 / 255 : 255;

	return 255 - (255 - channel) * part / 255;
}

static void svg_cells(FILE *out, const struct blocks *b, int width, uint64_t each)
{
	uint64_t at, n = 0;

	for (at = 0; at < b->nr; at += each, n++) {
		struct cell cell = cell_of(b, at, each);
		const int *rgb = looks[cell.look].rgb;
		unsigned long long x = n % (uint64_t)width * CELL + 8;
		unsigned long long y = n / (uint64_t)width * CELL + 32;
		bool toned = b->heat && cell.look >= LOOK_DRAM && cell.look <= LOOK_NVME;

		fprintf(out,
			"<rect x=\"%llu\" y=\"%llu\" width=\"%d\" height=\"%d\" "
			"fill=\"#%02x%02x%02x\"><title>block %llu, %s, heat %u</title></rect>\n",
			x, y, CELL - 1, CELL - 1,
			tone(rgb[0], cell.heat, toned), tone(rgb[1], cell.heat, toned),
			tone(rgb[2], cell.heat, toned), (unsigned long long)at,
			looks[cell.look].name, cell.heat);
	}
}

static void svg_legend(FILE *out, const struct blocks *b, unsigned long long y)
{
	uint64_t count[NR_LOOKS];
	int look, x = 8;

	count_tiers(b, count);
	for (look = 0; look < NR_LOOKS; look++) {
		fprintf(out,
			"<rect x=\"%d\" y=\"%llu\" width=\"10\" height=\"10\" "
			"fill=\"rgb(%d,%d,%d)\"/><text x=\"%d\" y=\"%llu\">%s %llu</text>\n",
			x, y - 9, looks[look].rgb[0], looks[look].rgb[1], looks[look].rgb[2],
			x + 14, y, looks[look].name, (unsigned long long)count[look]);
		x += 110;
	}
}

void heatmap_svg(FILE *out, const struct blocks *b, const char *name, int width)
{
	uint64_t each = blocks_a_cell(b, width, 4 * LINES_MAX);
	uint64_t cells = (b->nr + each - 1) / each;
	uint64_t lines = (cells + (uint64_t)width - 1) / (uint64_t)width;
	unsigned long long height = lines * CELL + 64;
	int wide = width * CELL + 16 > 680 ? width * CELL + 16 : 680;
	char size[SIZE_TEXT];

	fprintf(out,
		"<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"%d\" height=\"%llu\" "
		"font-family=\"sans-serif\" font-size=\"12\">\n"
		"<rect width=\"100%%\" height=\"100%%\" fill=\"white\"/>\n<text x=\"8\" y=\"20\">",
		wide, height);
	xml_text(out, name);
	fprintf(out, ": %llu blocks of %s, %llu a cell%s</text>\n", (unsigned long long)b->nr,
		size_text(b->block_bytes, size), (unsigned long long)each,
		b->heat ? "; strong colours are in use" : "");
	svg_cells(out, b, width, each);
	svg_legend(out, b, height - 12);
	fputs("</svg>\n", out);
}
