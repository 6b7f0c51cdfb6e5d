"""`coyo-jobs demo`: draw a corpus, run the job on it, and show the results."""

from pathlib import Path

from rich.console import Console
from rich.table import Table

from jobs.commands.report import sample, write_contact_sheet
from jobs.demo import corpus
from jobs.demo.score import measure_accuracy
from jobs.errors import ConfigError
from jobs.recipe import load_recipe, recipe_template
from jobs.run import run


def run_demo(folder: str, shards: int, count: int) -> None:
    """Write corpus-parquet/, corpus-tar/, job.yaml, out-SHARDSxROWS/ and contact_sheet.png to `folder`.

    `count` is the number of rows per shard. Raises ConfigError if `folder` is a file, and JobError as a run does.
    """
    home = Path(folder)
    if home.exists() and not home.is_dir():
        raise ConfigError(f"{folder}: is a file", "name a folder for the demo")
    print(f"drawing   {shards * count:,} scenes into {home}/corpus-parquet and {home}/corpus-tar", flush=True)
    corpus.write_parquet(home / "corpus-parquet", shards, count)
    corpus.write_tars(home / "corpus-tar", shards, count)
    out = f"{home}/out-{shards}x{count}"
    text = recipe_template(f"{home}/corpus-parquet", out)
    for weights in ("kakaobrain/vit-large-patch16-384", "kakaobrain/align-base"):
        text = text.replace(weights, "demo")
    (home / "job.yaml").write_text(text)
    print(f"running   coyo-jobs run {home}/job.yaml", flush=True)
    summary = run(load_recipe(home / "job.yaml"))
    print(summary)

    truth = {row.id: row for shard in range(shards) for row in corpus.rows(shard, count)}
    accuracy = measure_accuracy(out, truth)
    table = Table("picture of", "top label", "best-matching text", title="what the job wrote", title_justify="left")
    for row in sample(out, 6):
        (label, prob), (text, cosine) = row.labels[0], row.matches[0]
        table.add_row(row.text, f"{label} {prob:.2f}", f"{'its own' if text == row.text else text} {cosine:+.2f}")
    Console().print(table)
    print(
        f"labels right {accuracy.label_accuracy:.1%}   text finds its image {accuracy.text_to_image:.1%}, "
        f"image finds its text {accuracy.image_to_text:.1%} (chance: {accuracy.chance:.2%})"
    )
    sheet = write_contact_sheet(out, str(home / "contact_sheet.png"), 24)
    print(f"look at   {sheet}")
    print(
        f"try next  coyo-jobs run {home}/job.yaml --set source.path={home}/corpus-tar --set output.path={home}/out-tar"
    )
