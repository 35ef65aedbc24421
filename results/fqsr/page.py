"""README.md from what was measured."""

from typing import Any

from remaining import CROPS
from variants import (
    ABLATION,
    COST_SIZE,
    FINETUNE_IMAGES,
    GAINS,
    LIMITS,
    NETWORKS,
    RESULTS,
    SETS,
    SKIP_LIMIT,
    VARIANTS,
)

PAGE = """# Fully quantized networks by training

Made by `python results/fqsr/run.py` on {date} ({cpu}): each training has {iterations} iterations on
the {images} training images (bsd200, t91), Adam along a cosine from {rates} (relative);
SRResNet in batches of {srresnet.batch} patches of {srresnet.patch} px, EDSR of {edsr.batch} of {edsr.patch} px.
Targets are the originals for SRResNet at 8/8/8 and 6/6/8, else the output of the float network (`--teacher 1`), which
these originals do not make better (EDSR) or which low bits learn faster.
Weights, inputs and skip operands have the bits of the row, first and last layer included; the image has 8. PSNR in dB
of the compiled integer network, in brackets the loss against the float network that was trained for as long. PTQ: the
same bits without training on originals, and with its parameters fine-tuned on {finetune} low-resolution images, where
the trainings begin; all keep what is best on crops of DIV2K's validation images. Protocol: {protocol}.

| network | bits | {head} |
|---|---|{rules}|
{rows}

Wanted: at most {limits} dB below float. Gain of training over fine-tuned PTQ: at least {gains} dB.

## What brings it, at 4/4/8

Each row trained for as long, with L1 to the originals (and FQSR's calibration loss where it says so); the first
intervals are the moving average of the maximum over 20 batches, as in FQSR, where the networks above begin at the
parameters of fine-tuned post-training quantization.

| network | training | {sets} |
|---|---|{set_rules}|
{ablation}

## What is left

Mean squared error of the trained networks to the float network's output, in squared levels of 255 (crops of {crops}
low-resolution images that calibration did not see), and the share that is gained where one activation stays in float.

| network | bits | error | most of it |
|---|---|---|---|
{remaining}

{tried}

## Skip operands

The trained networks with 8-bit skip operands, and the same parameters with skip operands in float (twin in PyTorch).

| network | bits | {sets} |
|---|---|{set_rules}|
{skips}

Peak activations at {size} (LR): FQSR counts feature maps at low resolution only; the true peak counts everything alive,
maps at high resolution included, as our compiled network holds it.

| network | bits | FQSR's OPs, 10⁹ | FQSR's memory, MB (float32) | true peak, MB |
|---|---|---|---|---|
{memory}

{verdict}
"""


TRIED = """EDSR's residual stream and what its last convolution reads are linear values: calibration gives them the
basis in which they lose least, and turns it until their peaks are low. SRResNet has none, as PReLUs stand between; only
the scales of its channels are free. What is left comes from the activations that carry the picture itself, before each
upsampling and before the last convolution; only in SRResNet at 3 and 4 bits is it spread over all layers. Tried as
well, judged on DIV2K's crops: at 8 bits intervals that learn ten times as fast as weights shrink below what other
pictures need (four times is kept); equalizing channels in full makes SRResNet's noise at 4 bits 1.9 times as large; and
at 4 bits the last iterations of the cosine still gain, so that longer training is the surest way to more: the authors
took 300 000 iterations of 16 patches. FQSR's own levels, odd ones without a zero (`--levels fqsr-odd`), take twice the
time of an iteration and are not among these runs."""


def problems(networks: dict[str, Any]) -> list[str]:
    """What was wanted and is not so, in words."""
    found = [f"{NETWORKS[key].weights} is not trained" for key in NETWORKS.keys() - networks.keys()]
    for result in networks.values():
        trained, name = result["trained"], result["name"]
        for dataset in SETS:
            for bits, limit in LIMITS.items():
                drop = trained["float"][dataset] - trained[bits][dataset]
                if drop > limit:
                    found.append(f"{name} {bits} on {dataset} is {drop:.3f} dB below float (wanted: {limit})")
            for bits, gain in GAINS.items():
                better = trained[bits][dataset] - result["finetuned"][bits][dataset]
                if better < gain:
                    found.append(f"{name} {bits} on {dataset} gains {better:.3f} dB over PTQ (wanted: {gain})")
            if not trained["fixed"][dataset] < trained["learned"][dataset] < trained["sqcl"][dataset]:
                found.append(f"{name} on {dataset}: fixed < learned < with the calibration loss does not hold")
            for bits in LIMITS:
                cost = result["skips"][bits]["float"][dataset] - result["skips"][bits]["quantized"][dataset]
                if cost > SKIP_LIMIT:
                    found.append(f"{name} {bits} on {dataset}: 8-bit skips cost {cost:.3f} dB (wanted: {SKIP_LIMIT})")
    return found


def page(networks: dict[str, Any], conditions: dict[str, Any]) -> str:
    """The README."""

    def cells(values: dict[str, float], floating: dict[str, float]) -> str:
        return " | ".join(f"{values[s]:.3f} (−{floating[s] - values[s]:.3f})" for s in SETS)

    rows, ablation, remaining, skips, memory = [], [], [], [], []
    for result in networks.values():
        trained, name = result["trained"], result["name"]
        floating = trained["float"]
        for title, values in (("float as published", result["published"]), ("float, trained alike", floating)):
            plain = " | ".join(f"{values[s]:.3f}" for s in SETS)
            rows.append(f"| {name} | {title} | {plain} |{' |' * 2 * len(SETS)}")
        for bits in RESULTS:
            ptq = " | ".join(f"{result['ptq'][bits][s]:.3f} | {result['finetuned'][bits][s]:.3f}" for s in SETS)
            label = bits.replace("-", "/")
            rows.append(f"| {name} | {label} | {cells(trained[bits], floating)} | {ptq} |")
            left = result["remaining"][bits]
            most = ", ".join(f"`{site}` {share:.0%}" for site, share in left["shares"].items())
            remaining.append(f"| {name} | {label} | {left['squared_levels']:.3g} | {most} |")
            ours = result["skips"][bits]
            both = " | ".join(f"{ours['quantized'][s]:.3f}, float {ours['float'][s]:.3f}" for s in SETS)
            skips.append(f"| {name} | {label} | {both} |")
            costs = result["memory"][bits]
            counted = f"{costs['memory_fqsr_mb']:.2f} ({costs['memory_float_mb']:.2f})"
            memory.append(f"| {name} | {label} | {costs['ops_fqsr']:.3f} | {counted} | {costs['peak_mb']:.2f} |")
        for key in ABLATION:
            ablation.append(f"| {name} | {VARIANTS[key].title} | {cells(trained[key], floating)} |")
    wrong = problems(networks)
    verdict = (
        "Everything that was wanted holds." if not wrong else "Not reached:\n\n" + "\n".join(f"- {w}" for w in wrong)
    )
    head = " | ".join(SETS) + " | " + " | ".join(f"{s} PTQ | {s} PTQ fine-tuned" for s in SETS)
    return PAGE.format(
        **conditions,
        **NETWORKS,
        head=head,
        rules="|".join(["---"] * 3 * len(SETS)),
        rows="\n".join(rows),
        sets=" | ".join(SETS),
        set_rules="|".join(["---"] * len(SETS)),
        ablation="\n".join(ablation),
        crops=CROPS,
        remaining="\n".join(remaining),
        tried=TRIED,
        skips="\n".join(skips),
        memory="\n".join(memory),
        verdict=verdict,
        finetune=FINETUNE_IMAGES,
        limits=" / ".join(f"{limit} ({bits.replace('-', '/')})" for bits, limit in LIMITS.items()),
        gains=" / ".join(f"{gain} ({bits.replace('-', '/')})" for bits, gain in GAINS.items()),
        size=f"{COST_SIZE[1]}x{COST_SIZE[0]}",
    )
