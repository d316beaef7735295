"""Model FLOPs utilisation: the model's share of what the devices can compute.

    MFU = FLOPs of a step / (seconds of a step × devices × peak FLOP/s of a device)

FLOPs are those that regionjax/flops.py counts, forward and backward, each product once however
often it is computed (remat), and nothing for the gradients that frozen parameters do not need.
Slots that a batch leaves empty are computed, so they are counted. Seconds are the loop's: waiting
for the input is among them, evaluating and saving are not. The peak is that of dense products in
bfloat16, whatever the run computes in.
"""

import re

# FLOP/s of one JAX device: (its device_kind, the whole of it, as a pattern; FLOP/s). TPUs:
# https://docs.cloud.google.com/tpu/docs/tpu7x and the pages of the others; a TPU7x has two devices.
# GPUs: NVIDIA's data sheets, which give twice as much where they mean sparse products.
PEAKS = (
    ("TPU v4", 275e12),
    ("TPU v5 ?(lite|e)", 197e12),
    ("TPU v5p?", 459e12),
    ("TPU v6 ?(lite|e)", 918e12),
    ("TPU7x", 2307e12 / 2),
    (r".*\bA100\b.*", 312e12),
    (r".*\bH100 PCIe\b.*", 756e12),
    (r".*\bH100 NVL\b.*", 835e12),
    (r".*\b(H100|H200|GH200)\b.*", 989e12),
    (r".*\bB200\b.*", 2250e12),
    (r".*\bGB200\b.*", 2500e12),
)


def peak(device_kind):
    """FLOP/s of a device with this `device_kind`, or None where they are not known here."""
    for pattern, flops in PEAKS:
        if re.fullmatch(pattern, device_kind):
            return flops
    return None
