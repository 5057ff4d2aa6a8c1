/*
 * Plots as SVG files that need nothing else: no script, no font file, light and dark backgrounds.
 *
 * A plot has categories along x and one or more series of values; a value may have a least and a
 * most (drawn as a whisker), or be missing (NAN; on a logarithmic axis also what is not above 0).
 * Bars start at 0; on a logarithmic axis at the reference, or at the bottom if there is none.
 */
#ifndef VMSM_BENCH_PLOT_H
#define VMSM_BENCH_PLOT_H

#include <stdbool.h>
#include <stddef.h>

struct plot_series {
    const char *name;
    const double *y;            /* one a category; NAN: none */
    const double *least, *most; /* the same, or NULL */
};

struct plot {
    const char *title, *x_label, *y_label; /* NULL or "": none */
    const char *const *categories;
    size_t category_count;
    const struct plot_series *series;
    size_t series_count;
    bool logarithmic;            /* the y axis */
    double reference;            /* a line across at this value; NAN: none */
    const char *reference_label; /* at its right end; NULL: the value */
};

/* Write the plot as grouped bars, or as lines with points. 0 or a negative errno. */
int plot_bars(const char *path, const struct plot *plot);
int plot_lines(const char *path, const struct plot *plot);

#endif
