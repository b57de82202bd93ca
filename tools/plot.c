// SPDX-License-Identifier: MIT
#include <math.h>

#include "heatmap.h"
#include "plot.h"
#include "size.h"

#define LEFT 240
#define LENGTH 460
#define HEIGHT 22

static const char *const colours[PLOT_PARTS] = { "#d64530", "#d98e04", "#3168b8", "#4aa096" };

struct plot_bar *plot_bar(struct plot *p)
{
	struct plot_bar *bar = p->nr_bars < PLOT_BARS ? &p->bar[p->nr_bars++] : NULL;

	if (bar)
		*bar = (struct plot_bar){ 0 };
	return bar;
}

static double sum_of(const struct plot *p, const struct plot_bar *bar)
{
	double sum = 0;
	int i;

	for (i = 0; i < p->nr_parts; i++)
		if (!isnan(bar->value[i]) && bar->value[i] > 0)
			sum += bar->value[i];
	return sum;
}

static double longest(const struct plot *p)
{
	double most = p->most, sum;
	int i;

	for (i = 0; i < p->nr_bars; i++) {
		sum = sum_of(p, &p->bar[i]);
		most = sum > most ? sum : most;
	}
	return most > 0 ? most : 1;
}

static void draw_value(FILE *out, const struct plot *p, double value)
{
	char text[SIZE_TEXT];

	if (p->bytes)
		fputs(size_text((uint64_t)value, text), out);
	else
		fprintf(out, "%.5g", value);
}

static void draw_bar(FILE *out, const struct plot *p, const struct plot_bar *bar, int y,
		     double most)
{
	double x = LEFT, width;
	bool known = false;
	int i;

	fprintf(out, "<text x=\"%d\" y=\"%d\" text-anchor=\"end\">", LEFT - 8, y + 14);
	xml_text(out, bar->label);
	fputs("</text>", out);
	for (i = 0; i < p->nr_parts; i++) {
		known |= !isnan(bar->value[i]);
		if (isnan(bar->value[i]) || bar->value[i] <= 0)
			continue;
		width = bar->value[i] / most * LENGTH;
		fprintf(out, "<rect x=\"%.1f\" y=\"%d\" width=\"%.1f\" height=\"16\" fill=\"%s\">"
			"<title>%s ", x, y, width, colours[i], p->parts[i]);
		draw_value(out, p, bar->value[i]);
		fputs("</title></rect>", out);
		x += width;
	}
	fprintf(out, "<text x=\"%.1f\" y=\"%d\">", x + 6, y + 14);
	if (known)
		draw_value(out, p, sum_of(p, bar));
	else
		fputc('-', out);
	fputs("</text>\n", out);
}

static void draw_legend(FILE *out, const struct plot *p)
{
	int i, x = LEFT;

	for (i = 0; i < p->nr_parts && p->nr_parts > 1; i++, x += 120)
		fprintf(out, "<rect x=\"%d\" y=\"28\" width=\"10\" height=\"10\" fill=\"%s\"/>"
			"<text x=\"%d\" y=\"37\">%s</text>\n", x, colours[i], x + 14, p->parts[i]);
}

void plot_draw(FILE *out, const struct plot *p)
{
	double most = longest(p);
	int i;

	if (!p->nr_bars)
		return;
	fprintf(out, "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"%d\" height=\"%d\" "
		"font-family=\"sans-serif\" font-size=\"12\">\n<text x=\"8\" y=\"18\" "
		"font-weight=\"bold\">%s</text>\n", LEFT + LENGTH + 80, 56 + p->nr_bars * HEIGHT,
		p->title);
	draw_legend(out, p);
	for (i = 0; i < p->nr_bars; i++)
		draw_bar(out, p, &p->bar[i], 46 + i * HEIGHT, most);
	fputs("</svg>\n", out);
}
