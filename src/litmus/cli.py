"""The command line. Nothing heavy is imported up here: help and refusals answer at once."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import traceback
from pathlib import Path
from typing import Annotated, Any

import typer

from litmus.errors import DiskTrouble, Refused, refuse
from litmus.stopping import Signals, Stopped

app = typer.Typer(
    name="litmus",
    help="Train, track and diagnose image classifiers. A config is a whole run; a.b=c changes one word of it.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

Sources = Annotated[
    list[str] | None,
    typer.Argument(metavar="CONFIG|a.b=c", help="Files merged left to right, then overrides.", show_default=False),
]
RunName = Annotated[
    str, typer.Argument(metavar="RUN", help="Run id, a unique prefix of it, a run's name, 'latest', or best:STUDY.")
]
Home = Annotated[str, typer.Option(help="Folder of the embedded store and the run directories.")]
Uri = Annotated[str | None, typer.Option(help="MLflow server; default: MLFLOW_TRACKING_URI, else the embedded store.")]


@app.command(no_args_is_help=True)
def fit(
    sources: Sources = None,
    resume: Annotated[
        str | None,
        typer.Option(
            metavar="RUN|latest|auto",
            help="Go on with a run that was stopped or killed, as if it had not been; auto: with the newest of this "
            "config, or begin one.",
        ),
    ] = None,
    allow_changed: Annotated[
        bool, typer.Option("--allow-changed", help="Resume although config, code or data differ from the run's.")
    ] = False,
    home: Annotated[
        str | None, typer.Option(help="Where to look for the run of --resume; default: the config's.")
    ] = None,
) -> None:
    """Train, validate, test; ends with the verdict and the next command."""
    if resume is None:
        for option, given in (("--allow-changed", allow_changed), ("--home", home is not None)):
            if given:
                raise refuse(option, "only acts with --resume")

    def choose_run() -> tuple[Any, Any, str]:
        config: Any = _config(sources) if sources or resume is None else None
        if resume is None:
            return config, None, ""
        from litmus.resume import choose

        return choose(resume, config, home=home, allow_changed=allow_changed)

    from litmus.launch import fit as fit_on_all_devices

    with Signals() as signals:  # from here on, so that no moment is left in which they have another meaning
        code = fit_on_all_devices(choose_run, signals=signals, say=typer.echo)
    if code:
        raise typer.Exit(code)


@app.command(hidden=True)
def rank(folder: Path, meeting: str, world_size: int, rank: int, beginning: str) -> None:
    """One process of a run on several devices; ``litmus fit`` starts it."""
    with Signals() as signals:
        from litmus.launch import run_rank
        from litmus.ranks import Place

        place = Place(rank, world_size, local_rank=rank, node=0, nodes=1, by="litmus")
        run_rank(folder, meeting, place, json.loads(beginning), signals=signals)


@app.command()
def check(
    sources: Sources = None,
    show: Annotated[bool, typer.Option("--show", help="Draw augmented training images to a PNG.")] = False,
    decode: Annotated[
        bool,
        typer.Option("--decode", help="Decode every image again and compare digests: all that is damaged, by path."),
    ] = False,
) -> None:
    """Everything that can be refused before compute; trains nothing, leaves no run."""
    config = _config(sources)
    from litmus.commands import check_run

    check_run(config, show=show, decode=decode, sources=sources or [])


@app.command("test")
def evaluate(run: RunName, home: Home = "mlruns", uri: Uri = None) -> None:
    """Evaluate a run's weights on its test set."""
    from litmus.commands import retest

    retest(run, home=home, uri=uri)


@app.command()
def predict(
    run: RunName,
    paths: Annotated[
        list[str],
        typer.Argument(metavar="PATHS", help="Images, folders (searched at any depth), quoted patterns with * and **."),
    ],
    top_k: Annotated[int | None, typer.Option(help="Classes listed for each image; default: 3.")] = None,
    tta: Annotated[
        str | None,
        typer.Option(
            metavar="VIEWS",
            help="Average over views of each image: 'auto', those the run was trained with, or hflip,vflip,shift.",
        ),
    ] = None,
    mc: Annotated[
        int | None, typer.Option(metavar="N", help="Monte Carlo dropout: mean and spread over N passes.")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Of the dropout masks of --mc; default: 0.")] = None,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Folder for the results; default: a new one below --home.")
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the results that --out holds.")] = False,
    batch_size: Annotated[int, typer.Option(help="Images at once.")] = 64,
    accelerator: Annotated[
        str | None, typer.Option(help="auto, cpu, gpu or mps; default: as the run was trained.")
    ] = None,
    home: Home = "mlruns",
    uri: Uri = None,
) -> None:
    """Predict image files: CSV, JSON and a contact sheet; files that cannot be read are listed."""
    from litmus.predict.command import predict_and_write

    try:
        predict_and_write(
            run, paths, out=out, overwrite=overwrite, home=home, uri=uri,
            top_k=top_k, tta=tta, mc=mc, seed=seed, batch_size=batch_size, accelerator=accelerator,
        )  # fmt: skip
    except KeyboardInterrupt:
        typer.echo("\ninterrupted; nothing was written", err=True)
        raise typer.Exit(130) from None


@app.command()
def diagnose(
    run: RunName,
    insight: Annotated[
        bool,
        typer.Option(
            "--insight",
            help="Look closer at the test images: calibration, top losses, Grad-CAM, ...",
        ),
    ] = False,
    seeds: Annotated[
        bool, typer.Option("--seeds", help="Over all finished runs here that differ from it in their seed alone.")
    ] = False,
    home: Home = "mlruns",
    uri: Uri = None,
) -> None:
    """Bias or variance, and what to change next; with --insight, pictures of what the network gets wrong and why."""
    if seeds and insight:
        raise refuse("--seeds", "compares the errors of several runs, --insight looks into one: give one of the two")
    from litmus.diagnose import diagnose_run

    diagnose_run(run, insight=insight, seeds=seeds, home=home, uri=uri)


Seeds = Annotated[int, typer.Option(help="Trainings of each, by seeds that all share.")]
Workers = Annotated[
    int | None,
    typer.Option(min=1, help="Trainings at a time; default: one for each GPU, or for each processor core."),
]
Devices = Annotated[str | None, typer.Option(metavar="0,1", help="GPUs to use; default: all.")]
Share = Annotated[bool, typer.Option("--share", help="Allow more workers than devices.")]
Over = Annotated[
    list[str] | None,
    typer.Option("--over", metavar="a.b=1,2,3", help="Values of a key, side by side; several keys: every combination."),
]
Arms = Annotated[
    list[str] | None,
    typer.Option("--arm", metavar="'a.b=1 c.d=2'", help="Overrides that belong together; give several to compare."),
]


@app.command(no_args_is_help=True)
def curve(
    context: typer.Context,
    sources: Sources = None,
    sizes: Annotated[
        str | None, typer.Option(metavar="50,100,...", help="Training images; default: all, a half, a quarter, ...")
    ] = None,
    seeds: Seeds = 5,
    equal: Annotated[
        str, typer.Option(metavar="steps|epochs", help="What the sizes have in common: two different curves.")
    ] = "steps",
    workers: Workers = None,
    devices: Devices = None,
    share: Share = False,
) -> None:
    """Error against training-set size, with a fitted law: would more data help? Goes on where it was stopped."""
    from litmus.curve import Design
    from litmus.curve import curve as draw_curve

    design = Design(_numbers("--sizes", sizes), seeds, equal)  # type: ignore[arg-type]
    _experiment(draw_curve, context, sources, workers, devices, share, design=design)


@app.command(no_args_is_help=True)
def decompose(
    context: typer.Context,
    sources: Sources = None,
    over: Over = None,
    arm: Arms = None,
    draws: Annotated[int, typer.Option(help="Disjoint training sets, a model each.")] = 6,
    reshuffles: Annotated[int, typer.Option(help="How often the training images are cut anew.")] = 2,
    seeds: Annotated[
        int, typer.Option(help="Trainings on each draw; with several, variance by initialisation is told apart.")
    ] = 1,
    split: Annotated[str, typer.Option(metavar="val|test", help="Whose images the models answer.")] = "test",
    workers: Workers = None,
    devices: Devices = None,
    share: Share = False,
) -> None:
    """Bias, variance and noise, from models trained on independent draws, over a setting. Goes on where it stopped."""
    from litmus.decompose import Design
    from litmus.decompose import decompose as take_apart

    design = Design(draws, reshuffles, seeds, split)  # type: ignore[arg-type]
    _experiment(take_apart, context, sources, workers, devices, share, over=over or [], arms=arm or [], design=design)


@app.command("claim", no_args_is_help=True)
def run_claim(
    context: typer.Context,
    sources: Annotated[
        list[str] | None,
        typer.Argument(metavar="NAME|a.b=c", help="Claims by name or file, and changed keys of one: seeds=7."),
    ] = None,
    full: Annotated[bool, typer.Option("--full", help="The long form: a GPU, and the data of the papers.")] = False,
    everything: Annotated[bool, typer.Option("--all", help="Every claim, one after the other.")] = False,
    gallery: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="Run nothing: write claims.md from the newest run of each claim."),
    ] = None,
    home: Annotated[str | None, typer.Option(help="Where --gallery looks for runs; default: mlruns.")] = None,
    workers: Workers = None,
    devices: Devices = None,
    share: Share = False,
) -> None:
    """A sentence of the course, tested: its trainings, figure, statistic, and supported, contradicted or neither."""
    if gallery is not None:
        from litmus.claims.gallery import make_gallery

        if sources or full or everything:
            raise refuse("--gallery", "runs nothing: give it alone", str(gallery))
        make_gallery(gallery, home=home or "mlruns", say=typer.echo)
        return
    if home is not None:
        raise refuse("--home", "only acts with --gallery; runs go where the claim's tracking.home says", home)
    from litmus.claims.command import claim

    _experiment(claim, context, sources, workers, devices, share, full=full, everything=everything)


@app.command()
def lr(
    sources: Sources = None,
    steps: Annotated[int, typer.Option(min=10, help="Training steps of the test.")] = 200,
    low: Annotated[float, typer.Option(help="First learning rate.")] = 1e-6,
    high: Annotated[float, typer.Option(help="Last learning rate.")] = 10.0,
) -> None:
    """Learning-rate range test (Smith 2017): a curve and a suggestion."""
    config = _config(sources)
    if not 0 < low < high:
        raise refuse("--low", f"must be > 0 and < --high, {high:g}", low)
    from litmus.commands import lr_range_test

    lr_range_test(config, steps=steps, low=low, high=high, sources=sources or [])


@app.command()
def gradients(
    sources: Sources = None,
    over: Annotated[
        list[str] | None,
        typer.Option("--over", metavar="a.b=1,2", help="Values to compare; several --over give every combination."),
    ] = None,
    arm: Annotated[
        list[str] | None,
        typer.Option("--arm", metavar="'a.b=1 c.d=2'", help="Overrides that belong together; '' is the config itself."),
    ] = None,
    train: Annotated[
        bool, typer.Option("--train", help="Also train each, and look again at every validation: depth against time.")
    ] = False,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Folder for copies of the pictures and tables.")
    ] = None,
) -> None:
    """Whether gradients vanish, explode or arrive, layer by layer, config beside config."""
    files, overrides = _files_and_overrides(sources)
    from litmus.config.vary import arms_of

    arms_of(over or [], arm or [])  # what is refused is refused before torch is imported
    from litmus.gradients import compare_gradients

    compare_gradients(files, overrides, over=over or [], arms=arm or [], train=train, out=out, say=typer.echo)


@app.command(no_args_is_help=True)
def tune(
    study: Annotated[str, typer.Argument(metavar="STUDY", help="File of the study: configs/studies/*.yaml.")],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(metavar="a.b=c", help="Change a key of the study: n_trials=100 sampler.name=random."),
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option(min=1, help="Trials at a time on this machine; default: one for each GPU, one without GPUs."),
    ] = None,
    devices: Annotated[str | None, typer.Option(metavar="0,1", help="GPUs to use; default: all.")] = None,
    share: Annotated[bool, typer.Option("--share", help="Allow more workers than devices.")] = False,
    storage: Annotated[
        str | None,
        typer.Option(
            metavar="URL",
            help="postgresql://... for several machines, the same command on each; default: LITMUS_STORAGE, else a "
            "file in the home of the runs.",
        ),
    ] = None,
    warm_start: Annotated[
        str | None, typer.Option(metavar="STUDY", help="Begin with the best trials of another study in this storage.")
    ] = None,
    reap: Annotated[
        bool, typer.Option("--reap", help="Only put right what a dead machine left running; train nothing.")
    ] = False,
) -> None:
    """Search, confirm the best on fresh seeds, conclude. The same command again goes on, to the same total."""
    if reap:
        from litmus.study.tune import reap as put_right

        raise typer.Exit(put_right(study, overrides or [], storage=storage, say=typer.echo))
    from litmus.study.tune import Options
    from litmus.study.tune import tune as search

    names = tuple(name.strip() for name in devices.split(",") if name.strip()) if devices else ()
    options = Options(workers, names, share, storage, warm_start)
    code = search(study, overrides or [], options, say=typer.echo)
    if code:
        raise typer.Exit(code)


@app.command()
def reproduce(
    run: RunName,
    steps: Annotated[int | None, typer.Option(min=1, help="Compare the first so many steps only.")] = None,
    tolerance: Annotated[
        float | None,
        typer.Option(min=0, help="Run in spite of differing fields and compare the metrics, to within this."),
    ] = None,
    checkout: Annotated[
        bool,
        typer.Option("--checkout", help="Where the code differs, run the run's own, in a work tree of its commit."),
    ] = False,
    home: Home = "mlruns",
    uri: Uri = None,
) -> None:
    """Run it again from its record: IDENTICAL, the first difference (exit 1), or REFUSED with what differs (exit 3)."""
    with Signals() as signals:
        from litmus.reproduce import reproduce_run

        code = reproduce_run(
            run, steps=steps, tolerance=tolerance, checkout=checkout, home=home, uri=uri, signals=signals
        )
    raise typer.Exit(code)


@app.command()
def compare(
    runs: Annotated[
        list[str] | None,
        typer.Argument(metavar="[RUN RUN...]", help="Two or more, each as for test; the first is the reference."),
    ] = None,
    where: Annotated[
        list[str] | None,
        typer.Option(
            metavar="KEY=VALUE",
            help="Instead: every finished run that fits. =, !=, <, <=, >, >= on config keys, metrics (best/val_err), "
            "name, kind, study, verdict; a,b is either; several must all hold.",
        ),
    ] = None,
    study: Annotated[str | None, typer.Option(metavar="NAME", help="Instead: the finished trials of a study.")] = None,
    by: Annotated[
        str | None,
        typer.Option(
            metavar="KEY", help="The factor, a config key or such as code; default: all keys that differ but the seed."
        ),
    ] = None,
    reference: Annotated[
        str | None, typer.Option(metavar="ARM|RUN", help="What the others are held against; default: the first.")
    ] = None,
    images: Annotated[
        bool, typer.Option("--images", help="Evaluate single runs again: McNemar's test, image by image.")
    ] = False,
    allow_different: Annotated[
        bool, typer.Option("--allow-different", help="Go on though data sets or classes differ.")
    ] = False,
    name: Annotated[str | None, typer.Option(help="Of the folder below HOME/compare and of the run.")] = None,
    home: Home = "mlruns",
    uri: Uri = None,
) -> None:
    """What differs between runs, and whether it makes a difference: paired over seeds, curves, one page."""
    from litmus.compare.command import compare_runs

    compare_runs(
        runs or [], where=where or [], study=study, by=by, reference=reference, images=images,
        allow_different=allow_different, name=name, home=home, uri=uri, say=typer.echo,
    )  # fmt: skip


@app.command()
def runs(
    home: Home = "mlruns",
    uri: Uri = None,
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, help="How many, newest first.")] = 20,
) -> None:
    """List runs, newest first."""
    from litmus.commands import list_runs

    list_runs(home=home, uri=uri, limit=limit)


@app.command()
def sync(
    run: Annotated[
        str | None,
        typer.Argument(metavar="[RUN]", help="As for test, or a run directory, wherever it lies; default: --all."),
    ] = None,
    all_runs: Annotated[
        bool, typer.Option("--all", help="Every run in --home that has ended and was not sent.")
    ] = False,
    home: Annotated[
        str | None,
        typer.Option(
            help="Where the runs are, and whose store takes a run directory from elsewhere; default: mlruns.",
            show_default=False,
        ),
    ] = None,
    uri: Uri = None,
) -> None:
    """Send to MLflow what it does not have yet; twice is the same as once."""
    if run is not None and all_runs:
        raise refuse("--all", "sends every run, RUN sends one: give one of the two", run)
    from litmus.commands import send

    if not send(run, home=home, uri=uri):
        raise typer.Exit(1)


@app.command()
def export(
    run: RunName,
    format: Annotated[
        list[str] | None,
        typer.Option("--format", "-f", help="onnx, torch, mlflow, several with commas; default: all."),
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Folder of the files; default: exports/ in the run directory.")
    ] = None,
    register: Annotated[
        str | None, typer.Option(metavar="NAME", help="Register the MLflow model as a version of NAME.")
    ] = None,
    home: Home = "mlruns",
    uri: Uri = None,
) -> None:
    """Write the network as ONNX, torch.export and an MLflow model, each checked on the run's test images."""
    from litmus.export import export_run

    if not export_run(run, formats=format or [], out=out, register=register, home=home, uri=uri):
        raise typer.Exit(1)


@app.command()
def ui(
    home: Home = "mlruns",
    uri: Uri = None,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535)] = 5000,
) -> None:
    """Open the MLflow UI on the embedded store."""
    from litmus.tracking import ui_command

    argv, env = ui_command(home, uri, host=host, port=port)
    # Without the last word MLflow opens its pages for language models.
    typer.echo(f"http://{host}:{port}/#/experiments?workflowType=machine_learning  (Ctrl-C ends it)")
    raise typer.Exit(subprocess.call(argv, env={**os.environ, **env}))


@app.command()
def schema(
    study: Annotated[bool, typer.Option("--study", help="Of a study's file instead.")] = False,
    claim: Annotated[bool, typer.Option("--claim", help="Of a claim's file instead.")] = False,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Write it here; default: print it.")] = None,
) -> None:
    """JSON schema of a run's config, a study or a claim, for completion in an editor."""
    if study and claim:
        raise refuse("--claim", "is another schema than --study: give one of the two")
    if claim:
        from litmus.config.claim import claim_schema as made
    elif study:
        from litmus.config.study import study_schema as made
    else:
        from litmus.config import json_schema as made

    text = json.dumps(made(), indent=1) + "\n"
    if out is None:
        typer.echo(text, nl=False)
    else:
        out.write_text(text)


def _config(sources: list[str] | None) -> Any:
    from litmus.config import load_config

    return load_config(*_files_and_overrides(sources))


def _files_and_overrides(sources: list[str] | None) -> tuple[list[str], list[str]]:
    """Files are what has no '=' (or exists); everything else is an override."""
    given = sources or []
    files = [source for source in given if "=" not in source or Path(source).exists()]
    return files, [source for source in given if source not in files]


def _numbers(option: str, text: str | None) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in text.split(",")) if text else ()
    except ValueError:
        raise refuse(option, "reads whole numbers with commas: 50,100,200", text) from None


def _experiment(
    run: Any,
    context: typer.Context,
    sources: list[str] | None,
    workers: int | None,
    devices: str | None,
    share: bool,
    **how: Any,
) -> None:
    """A command of many trainings; ``typed`` is what to type again to go on with it."""
    from litmus.sweep.experiment import Incomplete, Options

    names = tuple(name.strip() for name in devices.split(",") if name.strip()) if devices else ()
    files, overrides = _files_and_overrides(sources)
    options = Options(workers, names, share)
    try:
        run(files, overrides, options=options, typed=context.obj or [], say=typer.echo, **how)
    except Incomplete as error:
        _last_words(error)
        raise typer.Exit(1) from None


def main(argv: list[str] | None = None) -> None:
    """Entry point.

    Exit codes: 0 done, 2 refused input, 3 reproduction refused, 1 other failure, 65 not finite, 74 disk, 130, 143
    signals.
    """
    try:
        run_command(argv)
    except Exception:
        sys.stderr.write(masked_traceback())
        sys.exit(1)


def run_command(argv: list[str] | None = None) -> None:
    """``main``, but for errors that nobody foresaw: those are raised."""
    try:
        app(args=argv, standalone_mode=True, obj=list(sys.argv[1:] if argv is None else argv))
    except Refused as refused:
        sys.stderr.write(f"{_masked(refused)}\n")
        sys.exit(2)
    except ArithmeticError as error:
        _last_words(error)
        sys.exit(65)
    except DiskTrouble as error:
        _last_words(error)
        sys.exit(74)
    except Stopped as error:
        _last_words(error)
        sys.exit(error.exit_code)


def masked_traceback() -> str:
    """That of the exception being handled."""
    return _masked(traceback.format_exc())


def _last_words(error: BaseException) -> None:
    sys.stderr.write(_masked("\n".join(["", str(error), *getattr(error, "__notes__", [])])) + "\n")


def _masked(text: object) -> str:
    """What goes to the screen often goes to a job's log file."""
    from litmus.tracking.masking import mask_secrets

    return str(mask_secrets(str(text)))


if __name__ == "__main__":
    main()
