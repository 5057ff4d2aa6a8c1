/*
 * SVG by hand: everything is placed by arithmetic on estimated text widths, because nobody can ask
 * the font that a reader will have.
 */
#include "plot.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#define FONT 13.0 /* px, height of labels */
#define VALUE_FONT 11.0
#define TITLE_FONT 17.0
#define GLYPH (FONT * 0.6) /* px, width of a character, generously */
#define LINE 20.0          /* px from one line of text to the next */
#define WIDTH_LEAST 860.0  /* px, of the image */
#define AREA_HEIGHT 330.0  /* px, between the axes */
#define BAR_MOST 56.0
#define BAR_LEAST 4.0
#define SLOPE 0.7660 /* cosine of the 40 degrees by which long labels are turned … */
#define RISE 0.6428  /* … and their sine */
#define COLOURS 8
#define TICKS_MOST 64

struct canvas {
    FILE *file;
    const struct plot *plot;
    bool bars;
    double width, height;           /* px, of the image */
    double left, right, top, floor; /* px, edges of the area with the values */
    double slot;                    /* px a category */
    bool turned;                    /* category labels */
    double low, high;               /* values at floor and top; logarithms on such an axis */
    double ticks[TICKS_MOST];       /* values */
    size_t tick_count;
};

/* Light colours, then the same for dark backgrounds; neighbours differ in lightness too. */
static const char *const colours[2][COLOURS] = {
    {"#2563c9", "#e07b18", "#12866b", "#b83a8c", "#5aa7e8", "#8a6a00", "#6d5bd0", "#66707c"},
    {"#6ea8ff", "#ffab57", "#45c9a3", "#f08ac8", "#a9d8ff", "#d8b84a", "#b3a6ff", "#aab4c0"}};

static bool text_given(const char *text)
{
    return text != NULL && text[0] != '\0';
}

/* Width in px; bytes that continue a UTF-8 character do not count. */
static double text_width(const char *text)
{
    double characters = 0;

    for (; text != NULL && *text != '\0'; text++)
        characters += (*text & 0xc0) != 0x80;
    return characters * GLYPH;
}

static void write_escaped(FILE *file, const char *text)
{
    for (; *text != '\0'; text++)
        switch (*text) {
        case '&':
            fputs("&amp;", file);
            break;
        case '<':
            fputs("&lt;", file);
            break;
        case '>':
            fputs("&gt;", file);
            break;
        case '"':
            fputs("&quot;", file);
            break;
        default: /* XML allows no other control characters, not even escaped */
            fputc((unsigned char)*text < ' ' ? ' ' : *text, file);
        }
}

static void write_text(FILE *file, double x, double y, const char *attributes, const char *text)
{
    fprintf(file, "<text x=\"%.1f\" y=\"%.1f\"%s%s>", x, y, attributes[0] != '\0' ? " " : "",
            attributes);
    write_escaped(file, text);
    fputs("</text>\n", file);
}

static void write_line(FILE *file, const char *class, double x1, double y1, double x2, double y2)
{
    fprintf(file, "<line class=\"%s\" x1=\"%.1f\" y1=\"%.1f\" x2=\"%.1f\" y2=\"%.1f\"/>\n", class,
            x1, y1, x2, y2);
}

/* At most `digits` significant digits; 1500000 is "1.5 M". From a thousandth to 1 as a decimal. */
static const char *number_format(double value, int digits, char *buffer, size_t size)
{
    static const struct {
        double unit;
        const char *suffix;
    } units[] = {{1e12, " T"}, {1e9, " G"},  {1e6, " M"},  {1e3, " k"},
                 {1e-3, ""},   {1e-6, " µ"}, {1e-9, " n"}, {1e-12, " p"}};
    double magnitude = fabs(value);

    snprintf(buffer, size, "%.*g", digits, value);
    if (magnitude >= 1e15 || magnitude < 1e-12)
        return buffer;
    for (size_t i = 0; i < sizeof units / sizeof units[0]; i++)
        if (magnitude >= units[i].unit * 0.99999) {
            double unit = units[i].suffix[0] != '\0' ? units[i].unit : 1;
            double scaled = value / unit;
            int whole = fabs(scaled) >= 100 && digits < 3 ? 3 : digits;

            snprintf(buffer, size, "%.*g%s", whole, scaled, units[i].suffix);
            break;
        }
    return buffer;
}

static const char *reference_text(const struct plot *plot, char *buffer, size_t size)
{
    return plot->reference_label != NULL ? plot->reference_label
                                         : number_format(plot->reference, 4, buffer, size);
}

/* Whether a value has a place on the y axis. */
static bool value_shown(const struct plot *plot, double value)
{
    return isfinite(value) && (!plot->logarithmic || value > 0);
}

static double axis_y(const struct canvas *c, double value)
{
    double at = c->plot->logarithmic ? log10(value) : value;

    return c->floor - (at - c->low) / (c->high - c->low) * (c->floor - c->top);
}

static double category_x(const struct canvas *c, size_t category)
{
    return c->left + c->slot * ((double)category + 0.5);
}

/* The y axis: what it spans, and its ticks. */

static void range_include(const struct canvas *c, double value, double *least, double *most)
{
    if (!value_shown(c->plot, value))
        return;
    *least = fmin(*least, value);
    *most = fmax(*most, value);
}

static void range_find(const struct canvas *c, double *least, double *most)
{
    const struct plot *plot = c->plot;

    *least = INFINITY;
    *most = -INFINITY;
    range_include(c, plot->reference, least, most);
    for (size_t s = 0; s < plot->series_count; s++)
        for (size_t i = 0; i < plot->category_count; i++) {
            const struct plot_series *series = &plot->series[s];

            range_include(c, series->y[i], least, most);
            if (!value_shown(plot, series->y[i]))
                continue;
            if (series->least != NULL)
                range_include(c, series->least[i], least, most);
            if (series->most != NULL)
                range_include(c, series->most[i], least, most);
        }
    if (!isfinite(*least))
        *least = *most = 1;
}

static void tick_add(struct canvas *c, double value)
{
    if (c->tick_count < TICKS_MOST)
        c->ticks[c->tick_count++] = value;
}

/* The least of 1, 2, 5, 10 times a power of ten that is not under `rough`. */
static double step_round(double rough)
{
    double power = pow(10, floor(log10(rough)));

    return (rough > 5 * power ? 10 : rough > 2 * power ? 5 : rough > power ? 2 : 1) * power;
}

static void axis_linear(struct canvas *c, double least, double most)
{
    double step;

    least = fmin(least, 0);
    most = fmax(most, 0);
    if (most - least <= 0)
        most = 1;
    step = step_round((most - least) / 6);
    c->low = floor(least / step) * step;
    c->high = ceil(most / step + 0.15) * step;
    for (double at = round(c->low / step); at * step <= c->high + step / 2; at++)
        tick_add(c, at * step);
}

/* Ticks at powers of ten; at 2 and 5 of each too if there are few. */
static void axis_logarithmic(struct canvas *c, double least, double most)
{
    double decades = log10(most) - log10(least);
    bool fine = decades < 3;
    int every = (int)ceil(decades / 9);
    int first = (int)floor(log10(least)), last = (int)ceil(log10(most));

    c->low = log10(least) - fmax(0.04 * decades, 0.05);
    c->high = log10(most) + fmax(0.08 * decades, 0.05);
    if (!fine && c->low < first)
        c->low = first;
    for (int power = first; power <= last; power++) {
        static const double steps[] = {1, 2, 5};

        for (size_t i = 0; i < (fine ? 3 : 1); i++) {
            double value = steps[i] * pow(10, power);

            if (log10(value) < c->low - 1e-9 || log10(value) > c->high + 1e-9)
                continue;
            if (fine || power % every == 0)
                tick_add(c, value);
        }
    }
}

/* Where powers of ten are too far apart: as on a linear axis. */
static void ticks_narrow(struct canvas *c)
{
    double least = pow(10, c->low), most = pow(10, c->high);
    double step = step_round((most - least) / 5);

    c->tick_count = 0;
    for (double at = ceil(least / step); at * step <= most; at++)
        tick_add(c, at * step);
}

static void axis_fit(struct canvas *c)
{
    double least, most;

    range_find(c, &least, &most);
    if (!c->plot->logarithmic) {
        axis_linear(c, least, most);
        return;
    }
    axis_logarithmic(c, least, most);
    if (c->tick_count < 3)
        ticks_narrow(c);
}

/* Where things go. */

static double ticks_width(const struct canvas *c)
{
    char buffer[32];
    double widest = 0;

    for (size_t i = 0; i < c->tick_count; i++)
        widest = fmax(widest, text_width(number_format(c->ticks[i], 3, buffer, sizeof buffer)));
    return widest;
}

static double legend_entry_width(const struct plot_series *series)
{
    return 22 + text_width(series->name) + 18;
}

/* Rows that the legend needs; draws them if file is given. */
static size_t legend_rows(const struct canvas *c, FILE *file, double y);

static void layout_columns(struct canvas *c)
{
    const struct plot *plot = c->plot;
    char buffer[32];
    double categories = (double)(plot->category_count > 0 ? plot->category_count : 1);
    double least = FONT + 4, widest = 0;

    c->left = 24 + ticks_width(c) + (text_given(plot->y_label) ? LINE + 4 : 0);
    c->width = WIDTH_LEAST;
    if (text_given(plot->title))
        c->width = fmax(c->width, text_width(plot->title) * TITLE_FONT / FONT + 40);
    if (c->bars)
        least = fmax(least, BAR_LEAST * (double)plot->series_count / 0.8);
    for (size_t i = 0; i < plot->category_count; i++)
        widest = fmax(widest, text_width(plot->categories[i]));
    c->right = 24;
    if (!isnan(plot->reference))
        c->right += 4 + text_width(reference_text(plot, buffer, sizeof buffer));
    c->slot = fmax((c->width - c->left - c->right) / categories, least);
    c->turned = widest > c->slot - 6;
    /* The first turned label reaches to the left of its slot. */
    if (c->turned && c->left + c->slot / 2 < widest * SLOPE + 8) {
        c->left = widest * SLOPE + 8 - c->slot / 2;
        c->slot = fmax((c->width - c->left - c->right) / categories, least);
    }
    c->width = c->left + c->slot * categories + c->right;
    c->right = c->width - c->right;
}

static void layout(struct canvas *c)
{
    const struct plot *plot = c->plot;
    double widest = 0, legend;

    axis_fit(c);
    layout_columns(c);
    for (size_t i = 0; i < plot->category_count; i++)
        widest = fmax(widest, text_width(plot->categories[i]));
    c->top = text_given(plot->title) ? 58 : 24;
    legend = (double)legend_rows(c, NULL, 0) * LINE;
    c->top += legend > 0 ? legend + 8 : 0;
    c->floor = c->top + AREA_HEIGHT;
    c->height = c->floor + (c->turned ? widest * RISE + FONT + 8 : LINE + 8);
    c->height += text_given(plot->x_label) ? LINE + 4 : 4;
}

/* Drawing it. */

static void write_colours(FILE *file, const char *const *set, const char *text, const char *soft,
                          const char *grid, const char *ground)
{
    fprintf(file,
            ".ground{fill:%s;stroke:%s}text{fill:%s}.soft{fill:%s}.grid{stroke:%s}.axis{stroke:%s}"
            ".text,.reference{stroke:%s}.halo{stroke:%s}\n",
            ground, grid, text, soft, grid, soft, text, ground);
    for (int i = 0; i < COLOURS; i++)
        fprintf(file, ".f%d{fill:%s}.l%d{stroke:%s}", i, set[i], i, set[i]);
    fputc('\n', file);
}

static void write_head(const struct canvas *c)
{
    fprintf(c->file,
            "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"%.0f\" height=\"%.0f\" "
            "viewBox=\"0 0 %.0f %.0f\" role=\"img\" font-family=\"system-ui, -apple-system, "
            "'Segoe UI', Roboto, 'Noto Sans', 'DejaVu Sans', sans-serif\" font-size=\"%.0f\">\n",
            c->width, c->height, c->width, c->height, FONT);
    if (text_given(c->plot->title)) {
        fputs("<title>", c->file);
        write_escaped(c->file, c->plot->title);
        fputs("</title>\n", c->file);
    }
    fprintf(
        c->file,
        "<style>\ntext{font-variant-numeric:tabular-nums}.title{font-size:%.0fpx;font-weight:600}"
        ".value{font-size:%.0fpx}.grid{stroke-width:1}.axis{stroke-width:1}"
        ".whisker{stroke-width:1.2;opacity:.75}"
        ".reference{stroke-width:1.4;stroke-dasharray:5 4}"
        ".curve{fill:none;stroke-width:2.2;stroke-linejoin:round}.second{stroke-dasharray:7 4}"
        ".halo{stroke-width:1.5}\n",
        TITLE_FONT, VALUE_FONT);
    write_colours(c->file, colours[0], "#1f2328", "#59636e", "#dfe3e8", "#ffffff");
    fputs("@media (prefers-color-scheme: dark){\n", c->file);
    write_colours(c->file, colours[1], "#e6edf3", "#9da7b3", "#30363d", "#0d1117");
    fputs("}\n</style>\n", c->file);
    fprintf(c->file,
            "<rect class=\"ground\" x=\".5\" y=\".5\" width=\"%.0f\" height=\"%.0f\" rx=\"6\"/>\n",
            c->width - 1, c->height - 1);
    if (text_given(c->plot->title))
        write_text(c->file, 20, 32, "class=\"title\"", c->plot->title);
}

/* Points of different series differ in shape too. */
static void write_point(FILE *file, size_t series, double x, double y)
{
    static const char *const shapes[] = {
        "M-4.5 0A4.5 4.5 0 1 1 4.5 0A4.5 4.5 0 1 1-4.5 0Z", /* disc */
        "M-4-4H4V4H-4Z",                                    /* square */
        "M0-5.4L5 3.8H-5Z",                                 /* triangle, up */
        "M0-5.6L5.6 0L0 5.6L-5.6 0Z",                       /* diamond */
        "M0 5.4L5-3.8H-5Z",                                 /* triangle, down */
        "M-2-5.5H2V-2H5.5V2H2V5.5H-2V2H-5.5V-2H-2Z"};       /* plus */

    fprintf(file, "<path class=\"f%zu halo\" transform=\"translate(%.1f %.1f)\" d=\"%s\"/>\n",
            series % COLOURS, x, y, shapes[series % (sizeof shapes / sizeof shapes[0])]);
}

static size_t legend_rows(const struct canvas *c, FILE *file, double y)
{
    double x = 20;
    size_t rows = 1;

    if (c->plot->series_count < 2)
        return 0;
    for (size_t s = 0; s < c->plot->series_count; s++) {
        const struct plot_series *series = &c->plot->series[s];

        if (x > 20 && x + legend_entry_width(series) > c->width - 8) {
            x = 20;
            y += LINE;
            rows++;
        }
        if (file != NULL) {
            if (c->bars)
                fprintf(file,
                        "<rect class=\"f%zu\" x=\"%.1f\" y=\"%.1f\" width=\"12\" height=\"12\" "
                        "rx=\"2\"/>\n",
                        s % COLOURS, x, y - 10);
            else
                write_point(file, s, x + 6, y - 4.5);
            write_text(file, x + 20, y, "", series->name);
        }
        x += legend_entry_width(series);
    }
    return rows;
}

static void write_axes(const struct canvas *c)
{
    const struct plot *plot = c->plot;
    char buffer[128];

    for (size_t i = 0; i < c->tick_count; i++) {
        double y = axis_y(c, c->ticks[i]);

        write_line(c->file, "grid", c->left, y, c->right, y);
        write_text(c->file, c->left - 8, y + 4.5, "class=\"soft\" text-anchor=\"end\"",
                   number_format(c->ticks[i], 3, buffer, sizeof buffer));
    }
    for (size_t i = 0; i < plot->category_count; i++) {
        double x = category_x(c, i), y = c->floor + (c->turned ? 14 : 18);

        snprintf(buffer, sizeof buffer, "text-anchor=\"%s\" transform=\"rotate(%d %.1f %.1f)\"",
                 c->turned ? "end" : "middle", c->turned ? -40 : 0, x, y);
        write_text(c->file, x + (c->turned ? 4 : 0), y, buffer, plot->categories[i]);
    }
    if (text_given(plot->x_label))
        write_text(c->file, (c->left + c->right) / 2, c->height - 12,
                   "class=\"soft\" text-anchor=\"middle\"", plot->x_label);
    if (text_given(plot->y_label)) {
        snprintf(buffer, sizeof buffer,
                 "class=\"soft\" text-anchor=\"middle\" transform=\"rotate(-90 22 %.1f)\"",
                 (c->top + c->floor) / 2);
        write_text(c->file, 22, (c->top + c->floor) / 2, buffer, plot->y_label);
    }
}

/* From where bars grow. */
static double bars_base(const struct canvas *c)
{
    if (!c->plot->logarithmic)
        return axis_y(c, 0);
    return value_shown(c->plot, c->plot->reference) ? axis_y(c, c->plot->reference) : c->floor;
}

static void write_whisker(const struct canvas *c, size_t s, size_t i, double x, double cap)
{
    const struct plot_series *series = &c->plot->series[s];
    double least, most;
    char class[32];

    if (series->least == NULL || series->most == NULL)
        return;
    least = series->least[i];
    most = series->most[i];
    if (!isfinite(least) || !value_shown(c->plot, most))
        return;
    least = value_shown(c->plot, least) ? axis_y(c, least) : c->floor;
    most = axis_y(c, most);
    /* Over a bar of the series' colour it must differ, beside a curve it must not. */
    snprintf(class, sizeof class, c->bars ? "whisker text" : "whisker l%zu", s % COLOURS);
    write_line(c->file, class, x, least, x, most);
    write_line(c->file, class, x - cap, least, x + cap, least);
    write_line(c->file, class, x - cap, most, x + cap, most);
}

/* The value above its bar, below one that hangs. */
static void write_value(const struct canvas *c, const struct plot_series *series, size_t i,
                        double x)
{
    char buffer[32];
    bool hangs = axis_y(c, series->y[i]) > bars_base(c) + 0.5;
    const double *ends = hangs ? series->least : series->most;
    double end = ends != NULL && value_shown(c->plot, ends[i]) ? ends[i] : series->y[i];

    write_text(c->file, x, axis_y(c, end) + (hangs ? 13 : -5),
               "class=\"value\" text-anchor=\"middle\"",
               number_format(series->y[i], 3, buffer, sizeof buffer));
}

/* Whether the value of every bar has room above it. */
static bool values_fit(const struct canvas *c, double width)
{
    const struct plot *plot = c->plot;
    char buffer[32];

    for (size_t s = 0; s < plot->series_count; s++)
        for (size_t i = 0; i < plot->category_count; i++) {
            const char *text = number_format(plot->series[s].y[i], 3, buffer, sizeof buffer);

            if (value_shown(plot, plot->series[s].y[i]) &&
                text_width(text) * VALUE_FONT / FONT > width + 2)
                return false;
        }
    return true;
}

static void write_bar(const struct canvas *c, size_t s, size_t i, double x, double width)
{
    const struct plot_series *series = &c->plot->series[s];
    double base = bars_base(c), y = axis_y(c, series->y[i]);

    fprintf(c->file,
            "<rect class=\"f%zu\" x=\"%.2f\" y=\"%.2f\" width=\"%.2f\" height=\"%.2f\"><title>",
            s % COLOURS, x, fmin(base, y), width - (width > 6 ? 1 : 0.4), fmax(fabs(base - y), 1));
    write_escaped(c->file, c->plot->categories[i]);
    fputs(", ", c->file);
    write_escaped(c->file, series->name != NULL ? series->name : "");
    fprintf(c->file, ": %.5g</title></rect>\n", series->y[i]);
    write_whisker(c, s, i, x + width / 2, fmin(width / 5, 4));
}

static void write_bars(const struct canvas *c)
{
    const struct plot *plot = c->plot;
    double count = (double)plot->series_count;
    double width = fmin(c->slot * 0.8 / count, BAR_MOST);
    bool values = values_fit(c, width);

    for (size_t i = 0; i < plot->category_count; i++)
        for (size_t s = 0; s < plot->series_count; s++) {
            double x = category_x(c, i) + ((double)s - count / 2) * width;

            if (!value_shown(plot, plot->series[s].y[i]))
                continue;
            write_bar(c, s, i, x, width);
            if (values)
                write_value(c, &plot->series[s], i, x + width / 2);
        }
    write_line(c->file, "axis", c->left, bars_base(c), c->right, bars_base(c));
}

/* A missing value breaks the line. */
static void write_curve(const struct canvas *c, size_t s)
{
    const struct plot_series *series = &c->plot->series[s];
    bool pen_down = false;

    fprintf(c->file, "<path class=\"curve l%zu%s\" d=\"", s % COLOURS,
            s >= COLOURS ? " second" : "");
    for (size_t i = 0; i < c->plot->category_count; i++) {
        bool shown = value_shown(c->plot, series->y[i]);

        if (shown)
            fprintf(c->file, "%s%.1f %.1f", pen_down ? "L" : "M", category_x(c, i),
                    axis_y(c, series->y[i]));
        pen_down = shown;
    }
    fputs("\"/>\n", c->file);
}

static void write_curves(const struct canvas *c)
{
    const struct plot *plot = c->plot;

    write_line(c->file, "axis", c->left, c->floor, c->right, c->floor);
    for (size_t s = 0; s < plot->series_count; s++)
        for (size_t i = 0; i < plot->category_count; i++)
            if (value_shown(plot, plot->series[s].y[i]))
                write_whisker(c, s, i, category_x(c, i), 4);
    for (size_t s = 0; s < plot->series_count; s++)
        write_curve(c, s);
    for (size_t s = 0; s < plot->series_count; s++)
        for (size_t i = 0; i < plot->category_count; i++)
            if (value_shown(plot, plot->series[s].y[i]))
                write_point(c->file, s, category_x(c, i), axis_y(c, plot->series[s].y[i]));
}

static void write_reference(const struct canvas *c)
{
    char buffer[32];
    double y;

    if (!value_shown(c->plot, c->plot->reference))
        return;
    y = axis_y(c, c->plot->reference);
    write_line(c->file, "reference", c->left, y, c->right, y);
    write_text(c->file, c->right + 6, y + 4.5, "", reference_text(c->plot, buffer, sizeof buffer));
}

static int plot_write(const char *path, const struct plot *plot, bool bars)
{
    struct canvas c = {.plot = plot, .bars = bars};
    int error = 0;

    c.file = fopen(path, "we");
    if (c.file == NULL)
        return -errno;
    layout(&c);
    write_head(&c);
    legend_rows(&c, c.file, text_given(plot->title) ? 58 : 28);
    write_axes(&c);
    if (bars)
        write_bars(&c);
    else
        write_curves(&c);
    write_reference(&c);
    fputs("</svg>\n", c.file);
    if (fflush(c.file) != 0)
        error = -errno;
    if (fclose(c.file) != 0 && error == 0)
        error = -errno;
    return error;
}

int plot_bars(const char *path, const struct plot *plot)
{
    return plot_write(path, plot, true);
}

int plot_lines(const char *path, const struct plot *plot)
{
    return plot_write(path, plot, false);
}
