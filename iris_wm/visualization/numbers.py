"""Numbers as people read them."""


def short(value: float, _position: object = None) -> str:
    """A number in few characters: 1.2k, 0.034, 3e-05. Also a formatter of Matplotlib's ticks."""
    size = abs(value)
    if size >= 1e6:
        return f"{value / 1e6:.3g}M"
    return f"{value / 1e3:.3g}k" if size >= 1e3 else f"{value:.3g}"


def duration(seconds: float) -> str:
    """A time: 4.2 s, 3 min 05 s, 1 h 02 min, 52 h (2.2 days)."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours >= 48:
        return f"{hours:,} h ({hours / 24:,.1f} days)"
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s"
