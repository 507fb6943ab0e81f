"""Write made-up readings of two pumps, and some that the cloud holds back to judge the model by.

Each CSV has a header, four sensor columns and the label column `failure` (0 or 1). The two pumps fail for different
reasons, so a model that knows both is worth more than each pump's own.
"""

import csv
import random
from pathlib import Path

COLUMNS = ("temperature", "pressure", "vibration", "current", "failure")


def reading(rng: random.Random, cause: str) -> tuple[float, float, float, float, int]:
    """Return one row: hot bearings vibrate, a blocked inlet starves the pump of pressure."""
    failure = rng.random() < 0.4
    hot, blocked = failure and cause == "bearing", failure and cause == "inlet"
    return (
        round(rng.gauss(68 if hot else 55, 4), 2),
        round(rng.gauss(2.1 if blocked else 3.2, 0.3), 3),
        round(rng.gauss(4.5 if hot else 2.0, 0.6), 3),
        round(rng.gauss(6.5 if blocked else 8.0, 0.5), 3),
        int(failure),
    )


def write(name: str, causes: tuple[str, ...], count: int) -> None:
    """Write `count` rows, their causes in turn."""
    rng = random.Random(name)
    with Path(name).open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(COLUMNS)
        writer.writerows(reading(rng, causes[i % len(causes)]) for i in range(count))
    print(f"{name}: {count} readings")


write("pump-1.csv", ("bearing",), 300)
write("pump-2.csv", ("inlet",), 300)
write("held-out.csv", ("bearing", "inlet"), 400)
