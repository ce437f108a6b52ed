"""Pictures of what benchmarks found."""

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt


def ratios(path, title, groups):
    """How often Covey's time goes into a peer's: `groups` has for each panel a name and rows of label and ratio."""
    groups = [(name, rows) for name, rows in groups if rows]
    heights = [len(rows) for _, rows in groups]
    figure, axes = plt.subplots(len(groups), 1, figsize=(9, 1.0 + 0.27 * sum(heights) + 0.7 * len(groups)),
                                height_ratios=heights, squeeze=False, layout="constrained")
    for axis, (name, rows) in zip(axes[:, 0], groups):
        labels, values = zip(*rows)
        colours = ["#2a7f62" if value >= 1 else "#b5523b" for value in values]
        bars = axis.barh(range(len(rows)), values, color=colours, height=0.7)
        axis.bar_label(bars, [f"{value:.3g}" for value in values], padding=3, fontsize=8)
        axis.set_yticks(range(len(rows)), labels, fontsize=8)
        axis.invert_yaxis()
        axis.set_xscale("log")
        axis.set_xlim(min(0.5, min(values)) * 0.8, max(values) * 2)
        axis.axvline(1, color="black", linewidth=0.8)
        axis.set_title(name, fontsize=9, loc="left")
        axis.spines[["top", "right"]].set_visible(False)
        axis.xaxis.set_major_formatter("{x:g}")
        axis.tick_params(axis="x", labelsize=8)
    axes[-1, 0].set_xlabel("the peer's time over Covey's (right of 1: Covey is faster)", fontsize=9)
    figure.suptitle(title, fontsize=11)
    figure.savefig(path, dpi=150)
    plt.close(figure)


def growth(path, title, panels):
    """How two sides' milliseconds grow: `panels` has for each a name and rows of a value, Covey's and scikit-learn's."""
    figure, axes = plt.subplots(1, len(panels), figsize=(4 * len(panels), 3.6), squeeze=False, layout="constrained")
    for axis, (name, rows) in zip(axes[0], panels):
        values, ours, theirs = zip(*rows)
        axis.plot(values, theirs, "o-", color="#b5523b", label="scikit-learn, Lloyd")
        axis.plot(values, ours, "o-", color="#2a7f62", label="Covey")
        axis.set_xscale("log")
        axis.set_yscale("log")
        axis.set_xticks(values, [f"{value:,}" for value in values], fontsize=8)
        axis.minorticks_off()
        axis.yaxis.set_major_formatter("{x:g}")
        axis.tick_params(axis="y", labelsize=8)
        axis.set_title(name, fontsize=9, loc="left")
        axis.spines[["top", "right"]].set_visible(False)
    axes[0, 0].set_ylabel("ms", fontsize=9)
    axes[0, 0].legend(fontsize=8, frameon=False)
    figure.suptitle(title, fontsize=11)
    figure.savefig(path, dpi=150)
    plt.close(figure)


def curve(path, title, ours, ks, theirs):
    """Covey's inertia at every k, and all of scikit-learn's fits at some."""
    figure, axis = plt.subplots(figsize=(7, 4), layout="constrained")
    axis.plot(list(ours), list(ours.values()), color="#2a7f62", label="Covey, one statement")
    points = [(k, inertia) for k, found in zip(ks, theirs) for inertia in found]
    axis.plot(*zip(*points), "x", color="#b5523b", markersize=5, label=f"scikit-learn, {len(theirs[0])} fits at each of these k")
    axis.set_yscale("log")
    axis.set_xlabel("clusters", fontsize=9)
    axis.set_ylabel("inertia", fontsize=9)
    axis.tick_params(labelsize=8)
    axis.legend(fontsize=9, frameon=False)
    axis.spines[["top", "right"]].set_visible(False)
    axis.set_title(title, fontsize=11)
    figure.savefig(path, dpi=150)
    plt.close(figure)
