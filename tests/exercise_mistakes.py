"""Wrong answers a student may give, and words the exercise's message must say about each.

One entry at least for every exercise. `cell` is the grade_id of the solution cell, `answer` its
whole text, `message` a part of what the first failing test says.
"""

from dataclasses import dataclass
from textwrap import dedent


@dataclass(frozen=True)
class Mistake:
    slug: str
    cell: str
    answer: str
    message: str

    def __post_init__(self) -> None:
        object.__setattr__(self, "answer", dedent(self.answer))


MISTAKES = [
    Mistake(
        "01-why-compress",
        "tokens-per-second",
        """
        def tokens_per_second(parameters, bits, bandwidth, peak, batch=1):
            return min(bandwidth * batch / (parameters * bits), peak / (2 * parameters))
        """,
        "divide by 8",
    ),
    Mistake(
        "01-why-compress",
        "tokens-per-second",
        """
        def tokens_per_second(parameters, bits, bandwidth, peak, batch=1):
            return max(8 * bandwidth * batch / (parameters * bits), peak / (2 * parameters))
        """,
        "that is the bound by arithmetic",
    ),
    Mistake(
        "01-why-compress",
        "tokens-per-second",
        """
        def tokens_per_second(parameters, bits, bandwidth, peak, batch=1):
            return min(8 * bandwidth / (parameters * bits), peak / (2 * parameters))
        """,
        "two sequences share each weight",
    ),
    Mistake(
        "01-why-compress",
        "tokens-per-second",
        """
        def tokens_per_second(parameters, bits, bandwidth, peak, batch=1):
            return min(8 * bandwidth * batch / (parameters * bits), peak / parameters)
        """,
        "two operations a weight",
    ),
    Mistake(
        "01-why-compress",
        "pruned-bits",
        """
        def pruned_bits(density, bits, index_bits):
            return density * bits
        """,
        "someone has to keep the positions",
    ),
    Mistake(
        "01-why-compress",
        "pruned-bits",
        """
        def pruned_bits(density, bits, index_bits):
            return 1 + density * bits
        """,
        "costs more than it saves",
    ),
    Mistake(
        "01-why-compress",
        "pruned-bits",
        """
        def pruned_bits(density, bits, index_bits):
            return min(bits, density * (bits + index_bits))
        """,
        "a bitmap costs one bit a weight",
    ),
    Mistake(
        "01-why-compress",
        "pruned-bits",
        """
        def pruned_bits(density, bits, index_bits):
            return min(bits, 1 + density * bits)
        """,
        "the bitmap is larger than the indices",
    ),
    Mistake(
        "01-why-compress",
        "packed-bytes",
        """
        def packed_bytes(weights, bits, group_size, scale_bits=16, zero_point=False):
            return -(-weights * bits // 8)
        """,
        "that is the codes alone",
    ),
    Mistake(
        "01-why-compress",
        "packed-bytes",
        """
        def packed_bytes(weights, bits, group_size, scale_bits=16, zero_point=False):
            groups = weights // group_size
            total = -(-weights * bits // 8) + -(-groups * scale_bits // 8)
            return total + (-(-groups * bits // 8) if zero_point else 0)
        """,
        "the last one short",
    ),
    Mistake(
        "01-why-compress",
        "packed-bytes",
        """
        def packed_bytes(weights, bits, group_size, scale_bits=16, zero_point=False):
            groups = -(-weights // group_size)
            total = weights * bits // 8 + groups * scale_bits // 8
            return total + (groups * bits // 8 if zero_point else 0)
        """,
        "two whole bytes",
    ),
    Mistake(
        "01-why-compress",
        "packed-bytes",
        """
        def packed_bytes(weights, bits, group_size, scale_bits=16, zero_point=False):
            groups = -(-weights // group_size)
            return -(-weights * bits // 8) + -(-groups * scale_bits // 8)
        """,
        "one byte more",
    ),
    Mistake(
        "02-affine-quantization",
        "scale-and-zero-point",
        """
        def scale_and_zero_point(x_min, x_max, q_min, q_max):
            s = (x_min - x_max) / (q_max - q_min)
            return s, q_min - round(x_min / s)
        """,
        "did you subtract in the wrong order?",
    ),
    Mistake(
        "02-affine-quantization",
        "scale-and-zero-point",
        """
        def scale_and_zero_point(x_min, x_max, q_min, q_max):
            s = (x_max - x_min) / (q_max - q_min + 1)
            return s, q_min - round(x_min / s)
        """,
        "256 codes have 255 steps",
    ),
    Mistake(
        "02-affine-quantization",
        "scale-and-zero-point",
        """
        def scale_and_zero_point(x_min, x_max, q_min, q_max):
            s = (q_max - q_min) / (x_max - x_min)
            return s, q_min - round(x_min * s)
        """,
        "the width of one step",
    ),
    Mistake(
        "02-affine-quantization",
        "scale-and-zero-point",
        """
        def scale_and_zero_point(x_min, x_max, q_min, q_max):
            s = (x_max - x_min) / (q_max - q_min)
            return s, q_min - round(x_min / s)
        """,
        "does not contain 0",
    ),
    Mistake(
        "02-affine-quantization",
        "scale-and-zero-point",
        """
        def scale_and_zero_point(x_min, x_max, q_min, q_max):
            x_min, x_max = min(x_min, 0), max(x_max, 0)
            s = (x_max - x_min) / (q_max - q_min)
            return s, q_min - x_min / s
        """,
        "round it to an int",
    ),
    Mistake(
        "02-affine-quantization",
        "scale-and-zero-point",
        """
        def scale_and_zero_point(x_min, x_max, q_min, q_max):
            x_min, x_max = min(x_min, 0), max(x_max, 0)
            s = (x_max - x_min) / (q_max - q_min)
            return s, q_min + round(x_min / s)
        """,
        "the sign of x_min / s is turned",
    ),
    Mistake(
        "02-affine-quantization",
        "scale-and-zero-point",
        """
        def scale_and_zero_point(x_min, x_max, q_min, q_max):
            x_min, x_max = min(x_min, 0), max(x_max, 0)
            s = (x_max - x_min) / (q_max - q_min)
            return s, -round(x_min / s)
        """,
        "forgets q_min",
    ),
    Mistake(
        "02-affine-quantization",
        "channels",
        """
        def quantize_channels(x, scale, zero_point, axis, q_min, q_max):
            return (torch.round(x / scale) + zero_point).clamp(q_min, q_max).int()
        def dequantize_channels(q, scale, zero_point, axis):
            return scale * (q - zero_point)
        """,
        "yours ran along the columns",
    ),
    Mistake(
        "02-affine-quantization",
        "channels",
        """
        def quantize_channels(x, scale, zero_point, axis, q_min, q_max):
            s, z = scale[:, None], zero_point[:, None]
            return (torch.round(x / s) + z).clamp(q_min, q_max).int()
        def dequantize_channels(q, scale, zero_point, axis):
            return scale[:, None] * (q - zero_point[:, None])
        """,
        "your shape ignores axis",
    ),
    Mistake(
        "02-affine-quantization",
        "channels",
        """
        def quantize_channels(x, scale, zero_point, axis, q_min, q_max):
            shape = [1] * x.ndim
            shape[axis] = -1
            return (torch.round(x / scale.view(shape)) + zero_point.view(shape)).int()
        def dequantize_channels(q, scale, zero_point, axis):
            return q
        """,
        "clip to q_min and q_max",
    ),
    Mistake(
        "02-affine-quantization",
        "channels",
        """
        def quantize_channels(x, scale, zero_point, axis, q_min, q_max):
            shape = [1] * x.ndim
            shape[axis] = -1
            s, z = scale.view(shape), zero_point.view(shape)
            return (torch.round(x * (1 / s)) + z).clamp(q_min, q_max).int()
        def dequantize_channels(q, scale, zero_point, axis):
            shape = [1] * q.ndim
            shape[axis] = -1
            return scale.view(shape) * q
        """,
        "subtract z first",
    ),
    Mistake(
        "02-affine-quantization",
        "unused",
        """
        def unused_codes(x_min, x_max, bits):
            q_max = 2**bits - 1
            zero_point = -round(x_min / ((x_max - x_min) / q_max))
            return zero_point, []
        """,
        "the zero point of the asymmetric scheme",
    ),
    Mistake(
        "02-affine-quantization",
        "unused",
        """
        def unused_codes(x_min, x_max, bits):
            zero_point, q_max = 2 ** (bits - 1), 2**bits - 1
            scale = max(-x_min, x_max) / (q_max / 2)
            codes = [zero_point + round(v / scale) for v in (x_min, x_max)]
            return zero_point, [q for q in range(q_max + 1) if not codes[0] <= q <= codes[1]]
        """,
        "Did you divide by (q_max - q_min) / 2?",
    ),
    Mistake(
        "02-affine-quantization",
        "unused",
        """
        def unused_codes(x_min, x_max, bits):
            zero_point, q_max = 2 ** (bits - 1), 2**bits - 1
            scale = max(-x_min, x_max) / (q_max - zero_point)
            codes = [zero_point + round(v / scale) for v in (x_min, x_max)]
            return zero_point, [q for q in range(q_max + 1) if not codes[0] <= q <= codes[1]]
        """,
        "widened to [0, 3]",
    ),
    Mistake(
        "02-affine-quantization",
        "lost",
        """
        def lost_codes(scale, zero_point, q_min, q_max):
            q = torch.arange(q_min, q_max + 1)
            again = (torch.round(scale * (q - zero_point) / scale) + zero_point)
            return q[again.clamp(q_min, q_max) != q].tolist()
        """,
        "did you store in bfloat16?",
    ),
    Mistake(
        "02-affine-quantization",
        "lost",
        """
        def lost_codes(scale, zero_point, q_min, q_max):
            q = torch.arange(q_min, q_max + 1)
            stored = (scale * q).to(torch.bfloat16).float()
            again = torch.round(stored / scale).clamp(q_min, q_max)
            return q[again != q].tolist()
        """,
        "the zero point only shifts the codes",
    ),
    Mistake(
        "03-quantization-error",
        "bound-and-worst-inputs",
        """
        def bound(x, s, z, q_min, q_max):
            half = torch.tensor(s / 2)
            return torch.maximum(half, torch.maximum(s * q_min - x, x - s * q_max))
        """,
        "z moves the range",
    ),
    Mistake(
        "03-quantization-error",
        "bound-and-worst-inputs",
        """
        def bound(x, s, z, q_min, q_max):
            return torch.maximum(s * (q_min - z) - x, x - s * (q_max - z))
        """,
        "a bound is never negative",
    ),
    Mistake(
        "03-quantization-error",
        "bound-and-worst-inputs",
        """
        def bound(x, s, z, q_min, q_max):
            half = torch.tensor(s / 2, dtype=x.dtype)
            return torch.maximum(half, torch.maximum(s * (q_min - z) - x, x - s * (q_max - z)))

        def worst_inputs(s, z, q_min, q_max):
            return s * (torch.arange(q_min, q_max + 1, dtype=torch.float64) - z + 0.5)
        """,
        "16 levels have 15 gaps",
    ),
    Mistake(
        "03-quantization-error",
        "bound-and-worst-inputs",
        """
        def bound(x, s, z, q_min, q_max):
            half = torch.tensor(s / 2, dtype=x.dtype)
            return torch.maximum(half, torch.maximum(s * (q_min - z) - x, x - s * (q_max - z)))

        def worst_inputs(s, z, q_min, q_max):
            return s * (torch.arange(q_min, q_max, dtype=torch.float64) - z)
        """,
        "their error is 0, not s/2",
    ),
    Mistake(
        "03-quantization-error",
        "best-clip",
        """
        def mse_at(x, clip, bits):
            s = clip / (2 ** (bits - 1) - 1)
            return (torch.round(x / s) * s - x).square().mean().item()
        """,
        "clamp the codes",
    ),
    Mistake(
        "03-quantization-error",
        "best-clip",
        """
        def mse_at(x, clip, bits):
            largest = 2 ** (bits - 1)
            s = clip / largest
            x_hat = torch.round(x / s).clamp(-largest, largest) * s
            return (x_hat - x).square().mean().item()
        """,
        "3 for 3 bits",
    ),
    Mistake(
        "03-quantization-error",
        "best-clip",
        """
        def mse_at(x, clip, bits):
            largest = 2 ** (bits - 1) - 1
            s = clip / largest
            x_hat = torch.round(x / s).clamp(-largest, largest) * s
            return (x_hat - x).square().mean().item()

        def best_clip(x, bits):
            return max(torch.linspace(0.2, 12, 400).tolist(), key=lambda c: mse_at(x, c, bits))
        """,
        "the rounding error there is larger",
    ),
    Mistake(
        "03-quantization-error",
        "best-clip",
        """
        def mse_at(x, clip, bits):
            largest = 2 ** (bits - 1) - 1
            s = clip / largest
            x_hat = torch.round(x / s).clamp(-largest, largest) * s
            return (x_hat - x).square().mean().item()

        def best_clip(x, bits):
            return min(torch.linspace(0.2, 12, 400).tolist(), key=lambda c: mse_at(x, c, bits))
        """,
        "use x.std()",
    ),
    Mistake(
        "03-quantization-error",
        "budget",
        """
        def bits_per_weight(bits, group_size):
            return bits
        """,
        "the scales are stored too",
    ),
    Mistake(
        "03-quantization-error",
        "budget",
        """
        from qtools import QuantSpec, fake_quantize, qparams_from_tensor

        def bits_per_weight(bits, group_size):
            return bits + 16 / group_size

        def best_choice(w, budget):
            return int(budget), 576
        """,
        "a smaller group has a smaller error",
    ),
    Mistake(
        "04-integer-arithmetic",
        "four-sums",
        """
        def accumulate(q_x, q_w, z_x, z_w):
            q_x, q_w = q_x.long(), q_w.long()
            return q_x @ q_w.t() - z_x * q_w.sum(1) - z_w * q_x.sum(1)[:, None]
        """,
        "the term K z_x z_w is missing",
    ),
    Mistake(
        "04-integer-arithmetic",
        "four-sums",
        """
        def accumulate(q_x, q_w, z_x, z_w):
            acc = q_x @ q_w.t() - z_x * q_w.sum(1) - z_w * q_x.sum(1)[:, None]
            return acc + q_x.shape[1] * z_x * z_w
        """,
        "int8 wrapped around",
    ),
    Mistake(
        "04-integer-arithmetic",
        "multiplier",
        """
        import math

        def fixed_point(M, bits):
            fraction, exponent = math.frexp(M)
            return round(fraction * 2**bits), bits - exponent

        def requantize(acc, mantissa, shift):
            return (acc * mantissa + 2 ** (shift - 1)) >> shift
        """,
        "which has five bits",
    ),
    Mistake(
        "04-integer-arithmetic",
        "multiplier",
        """
        import math

        def fixed_point(M, bits):
            fraction, exponent = math.frexp(M)
            mantissa = round(fraction * 2**bits)
            if mantissa == 2**bits:
                mantissa, exponent = mantissa // 2, exponent + 1
            return mantissa, bits - exponent

        def requantize(acc, mantissa, shift):
            return (acc * mantissa) >> shift
        """,
        "a bare shift rounds down, add a half first",
    ),
    Mistake(
        "04-integer-arithmetic",
        "multiplier",
        """
        import math

        def fixed_point(M, bits):
            fraction, exponent = math.frexp(M)
            mantissa = round(fraction * 2**bits)
            if mantissa == 2**bits:
                mantissa, exponent = mantissa // 2, exponent + 1
            return mantissa, bits - exponent

        def requantize(acc, mantissa, shift):
            return (acc * mantissa + 2 ** (shift - 1)) >> shift
        """,
        "that is half up",
    ),
    Mistake(
        "04-integer-arithmetic",
        "largest-k",
        """
        def largest_k(bits, z_x, z_w, accumulator_bits):
            return (2 ** (accumulator_bits - 1) - 1) // (2 ** (bits - 1) - 1) ** 2
        """,
        "128 steps from it, not 127",
    ),
    Mistake(
        "04-integer-arithmetic",
        "largest-k",
        """
        def largest_k(bits, z_x, z_w, accumulator_bits):
            return (2 ** (accumulator_bits - 1) - 1) // 4 ** (bits - 1)
        """,
        "ignores the zero points",
    ),
    Mistake(
        "04-integer-arithmetic",
        "saturation",
        """
        def saturating_product(x, w):
            total = sum((a + 128) * b for a, b in zip(x, w))
            return max(-32768, min(32767, total)) - 128 * sum(w)

        def safe_weight(x_max):
            return 32767 // (2 * x_max)
        """,
        "each pair is clipped by itself",
    ),
    Mistake(
        "04-integer-arithmetic",
        "saturation",
        """
        def saturating_product(x, w):
            return sum(a * b for a, b in zip(x, w))

        def safe_weight(x_max):
            return 32767 // (2 * x_max)
        """,
        "that is the exact sum",
    ),
    Mistake(
        "05-observers",
        "average",
        """
        def moving_average(values, c):
            m = 0.0
            for v in values:
                m += c * (v - m)
            return m
        """,
        "do not start at 0",
    ),
    Mistake(
        "05-observers",
        "average",
        """
        def moving_average(values, c):
            m = values[0]
            for v in values[1:]:
                m = c * m + (1 - c) * v
            return m
        """,
        "c weighs the new value",
    ),
    Mistake(
        "05-observers",
        "average",
        """
        def moving_average(values, c):
            m = values[0]
            for v in values[1:]:
                m += c * (v - m)
            return m

        def weights(n, c):
            return [c * (1 - c) ** (n - k) for k in range(1, n + 1)]
        """,
        "the first batch is not multiplied by c",
    ),
    Mistake(
        "05-observers",
        "average",
        """
        def moving_average(values, c):
            m = values[0]
            for v in values[1:]:
                m += c * (v - m)
            return m

        def weights(n, c):
            return [(1 - c) ** (n - 1)] + [c * (1 - c) ** (n - k) for k in range(2, n + 1)]

        def corrected(values, c):
            m = 0.0
            for v in values:
                m += c * (v - m)
            return m
        """,
        "not divided",
    ),
    Mistake(
        "05-observers",
        "histogram",
        """
        def double(counts, start):
            return [sum(counts[i : i + 2]) for i in range(0, len(counts), 2)], start // 2
        """,
        "start is odd",
    ),
    Mistake(
        "05-observers",
        "histogram",
        """
        def double(counts, start):
            numbers = [int((start + i) / 2) for i in range(len(counts))]
            merged = [0] * (numbers[-1] - numbers[0] + 1)
            for k, c in zip(numbers, counts):
                merged[k - numbers[0]] += c
            return merged, numbers[0]
        """,
        "Round down, not towards 0",
    ),
    Mistake(
        "05-observers",
        "histogram",
        """
        def double(counts, start):
            first, last = start // 2, (start + len(counts) - 1) // 2
            merged = [0] * (last - first + 1)
            for i, c in enumerate(counts):
                merged[(start + i) // 2 - first] += c
            return merged, first

        def percentile_bin(counts, start, w, p):
            index, seen = p / 100 * sum(counts), 0
            for i, c in enumerate(counts):
                seen += c
                if seen > index:
                    return (start + i) * w, (start + i + 1) * w
        """,
        "the second value, and two lie in the first bin",
    ),
    Mistake(
        "05-observers",
        "mse",
        """
        def mean_squared_error(x, s, a, b):
            earned = sum((x - s * (j + 0.5)).sum() for j in range(b))
            earned += sum((-x - s * (j + 0.5)).sum() for j in range(a))
            return ((x.square().sum() - 2 * s * earned) / len(x)).item()
        """,
        "levels 0 to 5: the error is 0.0",
    ),
    Mistake(
        "05-observers",
        "mse",
        """
        def mean_squared_error(x, s, a, b):
            earned = sum(torch.clamp(x - s * j, min=0).sum() for j in range(b))
            earned += sum(torch.clamp(-x - s * j, min=0).sum() for j in range(a))
            return ((x.square().sum() - 2 * s * earned) / len(x)).item()
        """,
        "levels 0 to 1: the error is 4.0",
    ),
    Mistake(
        "05-observers",
        "mse",
        """
        def mean_squared_error(x, s, a, b):
            K = lambda side, j: torch.clamp(side - s * (j + 0.5), min=0).sum()
            earned = sum(K(x, j) for j in range(b)) + sum(K(-x, j) for j in range(a))
            return ((x.square().sum() - 2 * s * earned) / len(x)).item()

        def best_split(x, s, n):
            return min(range(n + 1), key=lambda a: mean_squared_error(x, s, a, n - a))
        """,
        "that is a: the number of levels above 0",
    ),
    Mistake(
        "05-observers",
        "entropy",
        """
        def divergence(counts, W, L):
            inside = list(counts[:W])
            inside[-1] += sum(counts[W:])
            cost, N = 0.0, sum(counts)
            for k in range(W):
                run = [inside[b] for b in range(W) if b * L // W == k * L // W]
                if inside[k]:
                    q = sum(run) / sum(c > 0 for c in run)
                    cost += inside[k] / N * math.log(inside[k] / q)
            return cost
        """,
        "Q must not know of them",
    ),
    Mistake(
        "05-observers",
        "entropy",
        """
        def divergence(counts, W, L):
            N, n, cost = sum(counts), sum(counts[:W]), 0.0
            for k in range(W):
                run = [counts[b] for b in range(W) if b * L // W == k * L // W]
                p = (counts[k] + (N - n if k == W - 1 else 0)) / N
                q = sum(run) / len(run) / n
                if p > 0:
                    cost += p * math.log(p / q) if q > 0 else math.inf
            return cost
        """,
        "an empty bin gets nothing",
    ),
    Mistake(
        "06-post-training-quantization",
        "fold",
        """
        def fold(weight, bias, gamma, beta, mean, var, eps):
            factor = gamma / (var + eps)
            offset = -mean if bias is None else bias - mean
            return weight * factor.view(-1, 1, 1, 1), beta + offset * factor
        """,
        "square root of the variance plus eps",
    ),
    Mistake(
        "06-post-training-quantization",
        "fold",
        """
        def fold(weight, bias, gamma, beta, mean, var, eps):
            factor = gamma / torch.sqrt(var + eps)
            return weight * factor.view(-1, 1, 1, 1), beta - mean * factor
        """,
        "which term is missing",
    ),
    Mistake(
        "06-post-training-quantization",
        "fold",
        """
        def fold(weight, bias, gamma, beta, mean, var, eps):
            factor = gamma / torch.sqrt(var + eps)
            bias = 0 if bias is None else bias
            return weight * factor.view(-1, 1, 1, 1), beta + bias * factor - mean
        """,
        "the mean is multiplied by gamma / sigma too",
    ),
    Mistake(
        "06-post-training-quantization",
        "equalize",
        """
        def equalize(W1, b1, W2):
            s = torch.sqrt(W1.abs().amax(1) / W2.abs().amax(0))
            return W1 / s[:, None], b1, W2 * s
        """,
        "b1 is divided by s as well",
    ),
    Mistake(
        "06-post-training-quantization",
        "equalize",
        """
        def equalize(W1, b1, W2):
            s = W1.abs().amax(1) / W2.abs().amax(0)
            return W1 / s[:, None], b1 / s, W2 * s
        """,
        "s is a square root",
    ),
    Mistake(
        "06-post-training-quantization",
        "equalize",
        """
        def equalize(W1, b1, W2):
            s = torch.sqrt(W1.abs().amax(1) / W2.abs().amax(0))
            return W1 / s[:, None], b1 / s, W2 * s
        """,
        "keep s = 1 there",
    ),
    Mistake(
        "06-post-training-quantization",
        "correct",
        """
        def correct(W, W_hat, b, x):
            return b + (W_hat - W) @ x.mean(0)
        """,
        "the other sign",
    ),
    Mistake(
        "06-post-training-quantization",
        "rounding",
        """
        def best_rounding(w, scale, G):
            return torch.round(w / scale)
        """,
        "round one of them up",
    ),
    Mistake(
        "07-quantization-aware-training",
        "round",
        """
        class Round(torch.autograd.Function):
            @staticmethod
            def forward(ctx, x, s, low, high):
                code = torch.round(x / s)
                ctx.save_for_backward((low <= code) & (code <= high))
                return s * code.clamp(low, high)

            @staticmethod
            def backward(ctx, grad):
                (inside,) = ctx.saved_tensors
                return grad * inside, None, None, None
        """,
        "mask x / s, not the code",
    ),
    Mistake(
        "07-quantization-aware-training",
        "round",
        """
        class Round(torch.autograd.Function):
            @staticmethod
            def forward(ctx, x, s, low, high):
                return s * torch.round(x / s).clamp(low, high)

            @staticmethod
            def backward(ctx, grad):
                return grad, None, None, None
        """,
        "where is the mask?",
    ),
    Mistake(
        "07-quantization-aware-training",
        "round",
        """
        class Round(torch.autograd.Function):
            @staticmethod
            def forward(ctx, x, s, low, high):
                v = x / s
                ctx.save_for_backward((low < v) & (v < high))
                return s * torch.round(v).clamp(low, high)

            @staticmethod
            def backward(ctx, grad):
                return ctx.saved_tensors[0].float(), None, None, None
        """,
        "multiply the mask by it",
    ),
    Mistake(
        "07-quantization-aware-training",
        "duty",
        """
        import math

        def simulate(c, s, eta, steps):
            w, codes = 0.0, []
            for _ in range(steps):
                codes.append(round(w / s))
                w -= eta * (w - c)
            return codes

        def predict(c, s):
            r = c / s - math.floor(c / s)
            return r, 2 * min(r, 1 - r)
        """,
        "is the gradient taken at w?",
    ),
    Mistake(
        "07-quantization-aware-training",
        "duty",
        """
        import math

        def simulate(c, s, eta, steps):
            w, codes = 0.0, []
            for _ in range(steps):
                codes.append(round(w / s))
                w -= eta * (s * codes[-1] - c)
            return codes

        def predict(c, s):
            r = c / s - math.floor(c / s)
            return r, min(r, 1 - r)
        """,
        "there and back",
    ),
    Mistake(
        "07-quantization-aware-training",
        "duty",
        """
        import math

        def simulate(c, s, eta, steps):
            w, codes = 0.0, []
            for _ in range(steps):
                codes.append(round(w / s))
                w -= eta * (s * codes[-1] - c)
            return codes

        def predict(c, s):
            r = c - math.floor(c)
            return r, 2 * min(r, 1 - r)
        """,
        "measure in steps",
    ),
    Mistake(
        "07-quantization-aware-training",
        "step",
        """
        import math

        def step_gradient(x, s, low, high, upstream):
            v = x / s
            slope = v - torch.round(v)
            slope = torch.where(v <= low, low, torch.where(v >= high, high, slope))
            return (slope * upstream).sum() / math.sqrt(x.numel() * high)
        """,
        "the other order has the wrong sign",
    ),
    Mistake(
        "07-quantization-aware-training",
        "step",
        """
        import math

        def step_gradient(x, s, low, high, upstream):
            q = torch.round(x / s).clamp(low, high)
            return (q * upstream).sum() / math.sqrt(x.numel() * high)
        """,
        "LSQ says round(v) - v",
    ),
    Mistake(
        "07-quantization-aware-training",
        "step",
        """
        import math

        def step_gradient(x, s, low, high, upstream):
            v = x / s
            slope = torch.where((v <= low) | (v >= high), 0.0, torch.round(v) - v)
            return (slope * upstream).sum() / math.sqrt(x.numel() * high)
        """,
        "pulls at the step with its whole code",
    ),
    Mistake(
        "07-quantization-aware-training",
        "step",
        """
        def step_gradient(x, s, low, high, upstream):
            v = x / s
            slope = torch.where(v <= low, low, torch.where(v >= high, high, torch.round(v) - v))
            return (slope * upstream).sum()
        """,
        "the scale g = 1 / sqrt(1 * 4) is missing",
    ),
    Mistake(
        "07-quantization-aware-training",
        "fold",
        """
        def fold(codes, scale, gamma, sigma):
            return codes, scale * gamma / sigma
        """,
        "a scale is positive",
    ),
    Mistake(
        "07-quantization-aware-training",
        "fold",
        """
        def fold(codes, scale, gamma, sigma):
            return codes, scale * (gamma / sigma).abs()
        """,
        "the signs of its codes must change",
    ),
    Mistake(
        "08-pruning",
        "groups",
        """
        def n_m_mask(score, n, m):
            groups = score.T.reshape(-1, m)
            best = groups.topk(n, dim=1).indices
            mask = torch.zeros_like(groups, dtype=torch.bool).scatter(1, best, True)
            return mask.reshape(score.T.shape).T
        """,
        "not down a column",
    ),
    Mistake(
        "08-pruning",
        "groups",
        """
        def n_m_mask(score, n, m):
            groups = score.reshape(-1, m)
            lowest = groups.kthvalue(m - n + 1, dim=1, keepdim=True).values
            return (groups >= lowest).reshape(score.shape)
        """,
        "still exactly n of m",
    ),
    Mistake(
        "08-pruning",
        "groups",
        """
        def n_m_mask(score, n, m):
            kept = score.numel() * n // m
            mask = torch.zeros(score.numel(), dtype=torch.bool)
            mask[score.flatten().topk(kept).indices] = True
            return mask.reshape(score.shape)
        """,
        "compare within a group",
    ),
    Mistake(
        "08-pruning",
        "groups",
        """
        def n_m_mask(score, n, m):
            groups = score.reshape(-1, m)
            best = groups.topk(n, dim=1, largest=False).indices
            mask = torch.zeros_like(groups, dtype=torch.bool).scatter(1, best, True)
            return mask.reshape(score.shape)
        """,
        "the highest scores stay",
    ),
    Mistake(
        "08-pruning",
        "operate",
        """
        def operate(w, H):
            inverse = torch.linalg.inv(H)
            q = w.abs().argmin().item()
            new = w - w[q] / inverse[q, q] * inverse[:, q]
            new[q] = 0
            return q, new
        """,
        "nobody can replace it",
    ),
    Mistake(
        "08-pruning",
        "operate",
        """
        def operate(w, H):
            q = (w**2 * H.diagonal()).argmin().item()
            inverse = torch.linalg.inv(H)
            new = w - w[q] / inverse[q, q] * inverse[:, q]
            new[q] = 0
            return q, new
        """,
        "divide by the diagonal of H's inverse",
    ),
    Mistake(
        "08-pruning",
        "operate",
        """
        def operate(w, H):
            inverse = torch.linalg.inv(H)
            q = (w**2 / inverse.diagonal()).argmin().item()
            new = w + w[q] / inverse[q, q] * inverse[:, q]
            new[q] = 0
            return q, new
        """,
        "the wrong way",
    ),
    Mistake(
        "08-pruning",
        "operate",
        """
        def operate(w, H):
            inverse = torch.linalg.inv(H)
            q = (w**2 / inverse.diagonal()).argmin().item()
            new = w.clone()
            new[q] = 0
            return q, new
        """,
        "the others move, too",
    ),
    Mistake(
        "08-pruning",
        "compensate",
        """
        def compensate(W, mask, H):
            new = W * mask
            for i, kept in enumerate(mask):
                pull = H[kept][:, ~kept] @ W[i, ~kept]
                new[i, kept] -= torch.linalg.solve(H[kept][:, kept], pull)
            return new
        """,
        "what it did is still to be done",
    ),
    Mistake(
        "08-pruning",
        "compensate",
        """
        def compensate(W, mask, H):
            new = W * mask
            inverse = torch.linalg.inv(H)
            for i, kept in enumerate(mask):
                new[i, kept] += inverse[kept][:, kept] @ H[kept][:, ~kept] @ W[i, ~kept]
            return new
        """,
        "invert H_KK, not H",
    ),
    Mistake(
        "08-pruning",
        "compensate",
        """
        def compensate(W, mask, H):
            new, kept = W * mask, mask[0]
            pull = H[kept][:, ~kept] @ W[:, ~kept].T
            new[:, kept] += torch.linalg.solve(H[kept][:, kept], pull).T
            return new
        """,
        "each row has its own mask",
    ),
    Mistake(
        "08-pruning",
        "compensate",
        """
        def compensate(W, mask, H):
            return W * mask
        """,
        "weight 0 must take over",
    ),
    Mistake(
        "08-pruning",
        "bytes",
        """
        def bitmap_bytes(numel, kept, bits):
            return -(-kept // 8) + -(-kept * bits // 8)


        def csr_bytes(rows, kept, bits, column_bits):
            return 4 * (rows + 1) + -(-kept * bits // 8) + -(-kept * column_bits // 8)


        def csr_pays(bits, column_bits):
            return 1 - bits / (bits + column_bits)
        """,
        "not only for those kept",
    ),
    Mistake(
        "08-pruning",
        "bytes",
        """
        def bitmap_bytes(numel, kept, bits):
            return numel // 8 + kept * bits // 8


        def csr_bytes(rows, kept, bits, column_bits):
            return 4 * (rows + 1) + kept * bits // 8 + kept * column_bits // 8


        def csr_pays(bits, column_bits):
            return 1 - bits / (bits + column_bits)
        """,
        "round up",
    ),
    Mistake(
        "08-pruning",
        "bytes",
        """
        def bitmap_bytes(numel, kept, bits):
            return -(-numel // 8) + -(-kept * bits // 8)


        def csr_bytes(rows, kept, bits, column_bits):
            return 4 * rows + -(-kept * bits // 8) + -(-kept * column_bits // 8)


        def csr_pays(bits, column_bits):
            return 1 - bits / (bits + column_bits)
        """,
        "10 rows have 11 starts",
    ),
    Mistake(
        "08-pruning",
        "bytes",
        """
        def bitmap_bytes(numel, kept, bits):
            return -(-numel // 8) + -(-kept * bits // 8)


        def csr_bytes(rows, kept, bits, column_bits):
            return 4 * (rows + 1) + -(-kept * bits // 8) + -(-kept * column_bits // 8)


        def csr_pays(bits, column_bits):
            return bits / (bits + column_bits)
        """,
        "The sparsity is 1 minus it",
    ),
    Mistake(
        "09-distillation",
        "soften",
        """
        def soften(v, T):
            powers = torch.exp(v / T)
            return powers / powers.sum(-1, keepdim=True)

        def push(z, v, T):
            return (soften(z, T) - soften(v, T)) / T
        """,
        "subtract the largest logit first",
    ),
    Mistake(
        "09-distillation",
        "soften",
        """
        def soften(v, T):
            return (v * T).softmax(-1)

        def push(z, v, T):
            return (soften(z, T) - soften(v, T)) / T
        """,
        "divide by T, do not multiply",
    ),
    Mistake(
        "09-distillation",
        "soften",
        """
        def soften(v, T):
            return (v / T).softmax(-1)

        def push(z, v, T):
            return soften(z, T) - soften(v, T)
        """,
        "a factor 1 / T is missing",
    ),
    Mistake(
        "09-distillation",
        "soften",
        """
        def soften(v, T):
            return (v / T).softmax(-1)

        def push(z, v, T):
            return (soften(v, T) - soften(z, T)) / T
        """,
        "the wrong sign",
    ),
    Mistake(
        "09-distillation",
        "hinton",
        """
        def hinton(z, v, y, T, alpha):
            log_q, log_p = (z / T).log_softmax(-1), (v / T).log_softmax(-1)
            divergence = (log_p.exp() * (log_p - log_q)).sum(-1).mean()
            hard = -z.log_softmax(-1)[torch.arange(len(y)), y].mean()
            return alpha * divergence + (1 - alpha) * hard
        """,
        "T² is missing",
    ),
    Mistake(
        "09-distillation",
        "hinton",
        """
        def hinton(z, v, y, T, alpha):
            log_q, log_p = (z / T).log_softmax(-1), (v / T).log_softmax(-1)
            divergence = (log_p.exp() * (log_p - log_q)).sum(-1).mean()
            hard = -log_q[torch.arange(len(y)), y].mean()
            return alpha * T**2 * divergence + (1 - alpha) * hard
        """,
        "the loss on the labels is at temperature 1",
    ),
    Mistake(
        "09-distillation",
        "hinton",
        """
        def hinton(z, v, y, T, alpha):
            q, p = (z / T).softmax(-1), (v / T).softmax(-1)
            divergence = (p * (p / q).log()).sum(-1).mean()
            hard = -z.log_softmax(-1)[torch.arange(len(y)), y].mean()
            return alpha * T**2 * divergence + (1 - alpha) * hard
        """,
        "use log_softmax",
    ),
    Mistake(
        "09-distillation",
        "hinton",
        """
        def hinton(z, v, y, T, alpha):
            log_q, p = (z / T).log_softmax(-1), (v / T).softmax(-1)
            hard = -z.log_softmax(-1)[torch.arange(len(y)), y].mean()
            return -alpha * T**2 * (p * log_q).sum(-1).mean() + (1 - alpha) * hard
        """,
        "the divergence is 0 (the cross-entropy is not)",
    ),
    Mistake(
        "09-distillation",
        "paired",
        """
        import math

        def paired_interval(a, b, t):
            d = [x - y for x, y in zip(a, b, strict=True)]
            mean = sum(d) / len(d)
            half = t * math.sqrt(sum((one - mean) ** 2 for one in d)) / len(d)
            return mean, mean - half, mean + half

        clear = "first"
        """,
        "divided by n - 1 = 2, not by n",
    ),
    Mistake(
        "09-distillation",
        "paired",
        """
        import math
        import statistics

        def paired_interval(a, b, t):
            mean = statistics.mean(a) - statistics.mean(b)
            spread = statistics.variance(a) + statistics.variance(b)
            half = t * math.sqrt(spread / len(a))
            return mean, mean - half, mean + half

        clear = "first"
        """,
        "take differences before the spread",
    ),
    Mistake(
        "09-distillation",
        "paired",
        """
        import math
        import statistics

        def paired_interval(a, b, t):
            d = [x - y for x, y in zip(a, b, strict=True)]
            half = t * statistics.stdev(d) / math.sqrt(len(d))
            return statistics.mean(d), statistics.mean(d) - half, statistics.mean(d) + half

        clear = "second"
        """,
        "look at the signs of the differences",
    ),
    Mistake(
        "09-distillation",
        "hidden",
        """
        import torch.nn.functional as F

        def hidden_loss(s, t, mask):
            total = 0.0
            for a, b in zip(s, t, strict=True):
                a, b = F.normalize(a, dim=-1), F.normalize(b, dim=-1)
                total = total + ((a - b).square().sum(-1) * mask).mean()
            return total
        """,
        "divide by the tokens that count",
    ),
    Mistake(
        "09-distillation",
        "hidden",
        """
        import torch.nn.functional as F

        def hidden_loss(s, t, mask):
            total = sum(((a - b).square().sum(-1) * mask).sum() for a, b in zip(s, t))
            return total / mask.sum()
        """,
        "normalise both first",
    ),
    Mistake(
        "09-distillation",
        "hidden",
        """
        import torch.nn.functional as F

        def hidden_loss(s, t, mask):
            total = 0.0
            for a, b in zip(s, t, strict=True):
                a, b = F.normalize(a, dim=-1), F.normalize(b, dim=-1)
                total = total + (a - b).square().sum(-1).mean()
            return total
        """,
        "what stands in the padding changes your loss",
    ),
    Mistake(
        "10-low-rank-decomposition",
        "power",
        """
        def largest(W, v, rounds):
            v = v / v.norm()
            for _ in range(rounds):
                v = W.T @ (W @ v)
                sigma = v.norm()
                v = v / sigma
            return sigma, W @ v / (W @ v).norm(), v
        """,
        "9 is sigma squared",
    ),
    Mistake(
        "10-low-rank-decomposition",
        "power",
        """
        def largest(W, v, rounds):
            for _ in range(rounds):
                v = W.T @ (W @ v)
            image = W @ v
            return image.norm(), image / image.norm(), v
        """,
        "divide by its length in each round",
    ),
    Mistake(
        "10-low-rank-decomposition",
        "power",
        """
        def largest(W, v, rounds):
            v = v / v.norm()
            for _ in range(rounds):
                v = W.T @ (W @ v)
                v = v / v.norm()
            image = W @ v
            return image.norm(), image, v
        """,
        "divide W v by sigma",
    ),
    Mistake(
        "10-low-rank-decomposition",
        "choose",
        """
        def choose(W, energy):
            s = torch.linalg.svdvals(W)
            k = int((s.cumsum(0) / s.sum() < energy).sum()) + 1
            m, n = W.shape
            return k if k * (m + n) < m * n else None
        """,
        "energy is a sum of squares",
    ),
    Mistake(
        "10-low-rank-decomposition",
        "choose",
        """
        def choose(W, energy):
            squares = torch.linalg.svdvals(W) ** 2
            k = int((squares.cumsum(0) / squares.sum() < energy).sum()) + 1
            m, n = W.shape
            return k if k * (m + n) <= m * n else None
        """,
        "that is not fewer",
    ),
    Mistake(
        "10-low-rank-decomposition",
        "choose",
        """
        def choose(W, energy):
            squares = torch.linalg.svdvals(W) ** 2
            return int((squares.cumsum(0) / squares.sum() < energy).sum()) + 1
        """,
        "return None",
    ),
    Mistake(
        "10-low-rank-decomposition",
        "cut",
        """
        def cut(W, b, X, k):
            U, s, Vh = torch.linalg.svd(W, full_matrices=False)
            L, R = U[:, :k] * s[:k], Vh[:k]
            return L, R, b + (W - L @ R) @ X.mean(0)
        """,
        "cut W S, not W",
    ),
    Mistake(
        "10-low-rank-decomposition",
        "cut",
        """
        def cut(W, b, X, k):
            U = torch.linalg.svd(W @ (X - X.mean(0)).T, full_matrices=False).U[:, :k]
            return U, U.T @ W, b
        """,
        "you left it as it was",
    ),
    Mistake(
        "10-low-rank-decomposition",
        "cut",
        """
        def cut(W, b, X, k):
            L = torch.linalg.svd(W @ X.T, full_matrices=False).U[:, :k]
            R = L.T @ W
            return L, R, b + (W - L @ R) @ X.mean(0)
        """,
        "subtract the mean before you cut",
    ),
    Mistake(
        "10-low-rank-decomposition",
        "split",
        """
        def split(kernel, k):
            o, i, kh, kw = kernel.shape
            u, s, vh = torch.linalg.svd(kernel.reshape(i * kh, o * kw), full_matrices=False)
            column = (u[:, :k] * s[:k]).T.reshape(k, i, kh, 1)
            return column, vh[:k].reshape(k, o, kw).transpose(0, 1).reshape(o, k, 1, kw)
        """,
        "permute first",
    ),
    Mistake(
        "10-low-rank-decomposition",
        "split",
        """
        def split(kernel, k):
            o, i, kh, kw = kernel.shape
            matrix = kernel.permute(1, 2, 0, 3).reshape(i * kh, o * kw)
            u, s, vh = torch.linalg.svd(matrix, full_matrices=False)
            column = (u[:, :k] * s[:k]).T.reshape(k, i, kh, 1)
            row = (s[:k, None] * vh[:k]).reshape(k, o, kw).transpose(0, 1)
            return column, row.reshape(o, k, 1, kw)
        """,
        "their product has it twice",
    ),
    Mistake(
        "10-low-rank-decomposition",
        "split",
        """
        def split(kernel, k):
            o, i, kh, kw = kernel.shape
            matrix = kernel.permute(1, 2, 0, 3).reshape(i * kh, o * kw)
            u, s, vh = torch.linalg.svd(matrix, full_matrices=False)
            column = (u[:, :k] * s[:k]).T.reshape(k, i, 1, kh)
            return column, vh[:k].reshape(k, o, kw).transpose(0, 1).reshape(o, k, kw, 1)
        """,
        "column must be [k, i, kh, 1]",
    ),
    Mistake(
        "11-weights-only",
        "read",
        """
        def bytes_per_token(weights, bits, layers, width, tokens, batch=1):
            return batch * (weights * bits / 8 + 4 * layers * width * tokens)


        def crossover(weights, bits, layers, width):
            return weights * bits / (32 * layers * width)
        """,
        "once for the whole batch",
    ),
    Mistake(
        "11-weights-only",
        "read",
        """
        def bytes_per_token(weights, bits, layers, width, tokens, batch=1):
            return weights * bits / 8 + 2 * layers * width * tokens * batch


        def crossover(weights, bits, layers, width):
            return weights * bits / (16 * layers * width)
        """,
        "a key AND a value",
    ),
    Mistake(
        "11-weights-only",
        "read",
        """
        def bytes_per_token(weights, bits, layers, width, tokens, batch=1):
            return weights * bits / 8 + 4 * layers * width * tokens * batch


        def crossover(weights, bits, layers, width):
            return weights * 16 / (32 * layers * width)
        """,
        "fewer bits in the weights",
    ),
    Mistake(
        "11-weights-only",
        "bits",
        """
        def true_bits(rows, columns, bits, group_size, symmetric=False, input_scale=False):
            return bits + 16 / columns
        """,
        "every group has a scale",
    ),
    Mistake(
        "11-weights-only",
        "bits",
        """
        def true_bits(rows, columns, bits, group_size, symmetric=False, input_scale=False):
            return bits + (16 if symmetric else 32) / group_size
        """,
        "as many bits as a code",
    ),
    Mistake(
        "11-weights-only",
        "bits",
        """
        def true_bits(rows, columns, bits, group_size, symmetric=False, input_scale=False):
            zero = 0 if symmetric else bits
            return bits + (16 + zero) / group_size + (16 / rows if input_scale else 0)
        """,
        "takes a whole byte in its row",
    ),
    Mistake(
        "11-weights-only",
        "gptq",
        """
        def gptq_row(w, H, levels, damping=0.01):
            nearest = (levels[None] - w[:, None]).abs().argmin(1)
            return levels[nearest].double()


        def e_of(w, hat, H, damping=0.01):
            return w - hat
        """,
        "that is the nearest level",
    ),
    Mistake(
        "11-weights-only",
        "gptq",
        """
        def gptq_row(w, H, levels, damping=0.01):
            inverse = torch.linalg.inv(H.double())
            w, hat = w.double().clone(), torch.zeros(len(w)).double()
            for j in range(len(w)):
                hat[j] = levels[(levels - w[j]).abs().argmin()]
                w[j:] -= (w[j] - hat[j]) / inverse[j, j] * inverse[j, j:]
            return hat


        def e_of(w, hat, H, damping=0.01):
            return w - hat
        """,
        "does the inverse shrink with every step?",
    ),
    Mistake(
        "11-weights-only",
        "gptq",
        """
        def gptq_row(w, H, levels, damping=0.01):
            H = H.double() + damping * H.double().diagonal().mean() * torch.eye(len(H))
            U = torch.linalg.cholesky(torch.linalg.inv(H), upper=True)
            w, hat = w.double().clone(), torch.zeros(len(w)).double()
            for j in range(len(w)):
                hat[j] = levels[(levels - w[j]).abs().argmin()]
                w[j:] -= (w[j] - hat[j]) / U[j, j] * U[j, j:]
            return hat


        def e_of(w, hat, H, damping=0.01):
            H = H.double() + damping * H.double().diagonal().mean() * torch.eye(len(H))
            return (w - hat).double() @ torch.linalg.cholesky(torch.linalg.inv(H))
        """,
        "you multiplied by U",
    ),
    Mistake(
        "11-weights-only",
        "awq",
        """
        def search(w, H, quantize, alphas):
            x, best = H.diagonal().sqrt(), None
            for alpha in sorted(alphas):
                t = x**-alpha
                t = t / (t.max() * t.min()).sqrt()
                error = float((w - quantize(w / t) * t).square().sum())
                if best is None or error < best[1]:
                    best = alpha, error
            return best
        """,
        "the output's has H in it",
    ),
    Mistake(
        "11-weights-only",
        "awq",
        """
        def search(w, H, quantize, alphas):
            x, best = H.diagonal().sqrt(), None
            for alpha in sorted(alphas):
                t = x**-alpha
                t = t / (t.max() * t.min()).sqrt()
                d = w - quantize(w * t) / t
                error = float(((d @ H) * d).sum())
                if best is None or error < best[1]:
                    best = alpha, error
            return best
        """,
        "loud inputs want LARGER weights",
    ),
    Mistake(
        "11-weights-only",
        "awq",
        """
        def search(w, H, quantize, alphas):
            x, best = H.diagonal().sqrt(), None
            for alpha in sorted(alphas):
                t = x**-alpha
                t = t / (t.max() * t.min()).sqrt()
                d = w - quantize(w / t) * t
                error = float(((d @ H) * d).sum())
                if best is None or error <= best[1]:
                    best = alpha, error
            return best
        """,
        "the smallest is 0",
    ),
    Mistake(
        "12-rank-one-and-svid",
        "decompose",
        """
        def decompose(W, rounds):
            M = W.abs()
            v = M.sum(0)
            for _ in range(rounds):
                v = M.T @ (M @ v)
                v = v / v.max()
            u = M @ v / (M @ v).norm()
            row = M.T @ u
            return torch.sign(W), row.norm().sqrt() * u, row / row.norm().sqrt()
        """,
        "a bit has no third value",
    ),
    Mistake(
        "12-rank-one-and-svid",
        "decompose",
        """
        def decompose(W, rounds):
            sign = torch.where(W < 0, -1.0, 1.0).to(W)
            v = W.abs().sum(0)
            for _ in range(rounds):
                v = W.T @ (W @ v)
                v = v / v.abs().max()
            u = W @ v / (W @ v).norm()
            row = W.T @ u
            return sign, row.norm().sqrt() * u, row / row.norm().sqrt()
        """,
        "take absolute values of W before you iterate",
    ),
    Mistake(
        "12-rank-one-and-svid",
        "decompose",
        """
        def decompose(W, rounds):
            M = W.abs()
            v = M.sum(0)
            for _ in range(rounds):
                v = M.T @ (M @ v)
                v = v / v.max()
            u = M @ v / (M @ v).norm()
            row = M.T @ u
            return torch.where(W < 0, -1.0, 1.0).to(W), u, row
        """,
        "give each the root of sigma",
    ),
    Mistake(
        "12-rank-one-and-svid",
        "decompose",
        """
        def decompose(W, rounds):
            M = W.abs()
            v = M.sum(0)
            for _ in range(rounds):
                v = M.T @ (M @ v)
                v = v / v.max()
            u = M @ v / (M @ v).norm()
            row = M.T @ u
            root = row.norm().sqrt()
            return torch.where(W < 0, -1.0, 1.0).to(W), root * u, root * row
        """,
        "sigma is in it twice",
    ),
    Mistake(
        "12-rank-one-and-svid",
        "certificate",
        """
        def certificate(W):
            s, t = (torch.linalg.matrix_norm(M, 2).item() for M in (W, W.abs()))
            _, _, Vh = torch.linalg.svd(W.abs())
            return (s + t) / 2, [round(x * 10**6) for x in Vh[0].tolist()]
        """,
        "t must be a Fraction, so that nothing rounds",
    ),
    Mistake(
        "12-rank-one-and-svid",
        "certificate",
        """
        def certificate(W):
            s, t = (torch.linalg.matrix_norm(M, 2).item() for M in (W, W.abs()))
            _, _, Vh = torch.linalg.svd(W.abs())
            return Fraction((s * s + t * t) / 2), [round(x * 10**6) for x in Vh[0].tolist()]
        """,
        "did you give its square?",
    ),
    Mistake(
        "12-rank-one-and-svid",
        "certificate",
        """
        def certificate(W):
            s, t = (torch.linalg.matrix_norm(M, 2).item() for M in (W, W.abs()))
            _, _, Vh = torch.linalg.svd(W)
            return Fraction((s + t) / 2), [round(x * 10**6) for x in Vh[0].tolist()]
        """,
        "is it the leading vector of |W|, not of W?",
    ),
    Mistake(
        "12-rank-one-and-svid",
        "certificate",
        """
        def certificate(W):
            s, t = (torch.linalg.matrix_norm(M, 2).item() for M in (W, W.abs()))
            U, _, _ = torch.linalg.svd(W.abs())
            return Fraction((s + t) / 2), [round(x * 10**6) for x in U[:, 0].tolist()]
        """,
        "left and right singular vectors differ",
    ),
    Mistake(
        "12-rank-one-and-svid",
        "equal",
        """
        def equal_by_signs(W):
            S = torch.sign(W).int()
            return S[:, 0].tolist(), S[0].tolist()
        """,
        "one of them has to leave it out",
    ),
    Mistake(
        "12-rank-one-and-svid",
        "equal",
        """
        def equal_by_signs(W):
            S = torch.sign(W).int()
            return (S[:, 0] * S[0, 0]).tolist(), S[0].tolist()
        """,
        "Compare with every entry",
    ),
    Mistake(
        "12-rank-one-and-svid",
        "counterexample",
        """
        def counterexample():
            return [[1, 2, 3], [4, 5, 6], [7, 8, 9]]
        """,
        "no entry is negative",
    ),
    Mistake(
        "12-rank-one-and-svid",
        "counterexample",
        """
        def counterexample():
            return [[1, 1, 1], [1, -1, 1], [1, 1, -1]]
        """,
        "W has rank three",
    ),
    Mistake(
        "12-rank-one-and-svid",
        "counterexample",
        """
        def counterexample():
            return [[1, 2, -3], [2, 4, -6], [1, 1, -1]]
        """,
        "SVID of rank two is exact",
    ),
    Mistake(
        "12-rank-one-and-svid",
        "counterexample",
        """
        def counterexample():
            return [[2, 2, 2], [0, 2, 4], [2, 0, -2]]
        """,
        "find your own",
    ),
    Mistake(
        "13-the-onebit-layer",
        "gradients",
        """
        def gradients(X, S, g, h, delta):
            V = delta @ S
            return V * g, (X * V).sum(0), (delta * ((X * g) @ S.T)).sum(0)
        """,
        "did you leave out h?",
    ),
    Mistake(
        "13-the-onebit-layer",
        "gradients",
        """
        def gradients(X, S, g, h, delta):
            V = (delta * h) @ S
            return V * g, (X * V).mean(0), (delta * ((X * g) @ S.T)).mean(0)
        """,
        "a sum over the rows of X, not a mean",
    ),
    Mistake(
        "13-the-onebit-layer",
        "gradients",
        """
        def gradients(X, S, g, h, delta):
            V = (delta * h) @ S
            return V, (X * V).sum(0), (delta * ((X * g) @ S.T)).sum(0)
        """,
        "g is missing",
    ),
    Mistake(
        "13-the-onebit-layer",
        "pack",
        """
        import numpy as np


        def pack(S):
            bits = torch.from_numpy(np.packbits((S < 0).numpy(), axis=1))
            return torch.nn.functional.pad(bits, (0, -bits.shape[1] % 8))


        def sign_product(bits, u):
            return u
        """,
        "the first column is the LEAST significant bit",
    ),
    Mistake(
        "13-the-onebit-layer",
        "pack",
        """
        def pack(S):
            bits = torch.zeros(len(S), (S.shape[1] + 7) // 8, dtype=torch.uint8)
            for j in range(S.shape[1]):
                bits[:, j // 8] |= (S[:, j] < 0).to(torch.uint8) << (j % 8)
            return bits


        def sign_product(bits, u):
            return u
        """,
        "one 64-bit word, 8 bytes",
    ),
    Mistake(
        "13-the-onebit-layer",
        "pack",
        """
        from qtools.onebit import pack_signs as pack


        def sign_product(bits, u):
            padded = torch.zeros(8 * bits.shape[1], dtype=u.dtype)
            padded[: len(u)] = u
            negative = sum(((bits >> k) & 1).to(u.dtype) @ padded[k::8] for k in range(8))
            return u.sum() - negative
        """,
        "hence the 2",
    ),
    Mistake(
        "13-the-onebit-layer",
        "count",
        """
        def onebit_bytes(shapes, kept):
            return sum(m * n // 8 for m, n in shapes) + 2 * kept


        def whole_bits(shapes, kept):
            return 8 * onebit_bytes(shapes, kept) / (sum(m * n for m, n in shapes) + kept)
        """,
        "g and h are missing",
    ),
    Mistake(
        "13-the-onebit-layer",
        "count",
        """
        def onebit_bytes(shapes, kept):
            signs = sum(m * -(-n // 64) * 8 for m, n in shapes)
            return signs + sum(2 * (m + n) for m, n in shapes) + 2 * kept


        def whole_bits(shapes, kept):
            return 8 * onebit_bytes(shapes, kept) / sum(m * n for m, n in shapes)
        """,
        "the kept ones were weights before, too",
    ),
    Mistake(
        "13-the-onebit-layer",
        "flips",
        """
        import math


        def earliest(w0, rate, beta1, beta2):
            return math.ceil(abs(w0) / rate)


        def first_flips(w, rate, direction):
            return ((w - rate * direction) < 0) != (w < 0)
        """,
        "C_T grows above 1",
    ),
    Mistake(
        "13-the-onebit-layer",
        "flips",
        """
        import math


        def earliest(w0, rate, beta1, beta2):
            reach, T = 0.0, 0
            while reach < abs(w0):
                T += 1
                a = [(1 - beta1) * beta1**k / (1 - beta1**T) for k in range(T)]
                c = [(1 - beta2) * beta2**k / (1 - beta2**T) for k in range(T)]
                reach += rate * math.sqrt(sum(x * x / y for x, y in zip(a, c)))
            return T


        def first_flips(w, rate, direction):
            return torch.sign(w - rate * direction) == -torch.sign(w)
        """,
        "torch.sign hides it",
    ),
    Mistake(
        "14-distilling-to-one-bit",
        "floor",
        """
        def cross_entropy(z, v):
            p, q = v.softmax(-1), z.softmax(-1)
            n = len(z)
            loss = -(p * z.log_softmax(-1)).sum() / n
            return loss, -(p * v.log_softmax(-1)).sum() / n, (q - p) / n
        """,
        "not by the number of sequences",
    ),
    Mistake(
        "14-distilling-to-one-bit",
        "floor",
        """
        def cross_entropy(z, v):
            p, q = v.softmax(-1), z.softmax(-1)
            n = z[..., 0].numel()
            loss = (p * (v.log_softmax(-1) - z.log_softmax(-1))).sum() / n
            return loss, torch.zeros(()), (q - p) / n
        """,
        "that is the divergence",
    ),
    Mistake(
        "14-distilling-to-one-bit",
        "floor",
        """
        def cross_entropy(z, v):
            p, q = v.softmax(-1), z.softmax(-1)
            n = z[..., 0].numel()
            loss = -(p * z.log_softmax(-1)).sum() / n
            return loss, -(q * z.log_softmax(-1)).sum() / n, (q - p) / n
        """,
        "that is the student's entropy",
    ),
    Mistake(
        "14-distilling-to-one-bit",
        "floor",
        """
        def cross_entropy(z, v):
            p, q = v.softmax(-1), z.softmax(-1)
            n = z[..., 0].numel()
            loss = -(p * z.log_softmax(-1)).sum() / n
            return loss, -(p * v.log_softmax(-1)).sum() / n, (p - q) / n
        """,
        "Is your sign turned?",
    ),
    Mistake(
        "14-distilling-to-one-bit",
        "states",
        """
        def state_loss(student, teacher, mask):
            total = 0.0
            for s, t in zip(student, teacher):
                cosine = torch.nn.functional.cosine_similarity(s, t, dim=-1)
                total = total + ((2 - 2 * cosine) * mask).mean()
            return total
        """,
        "two of them do not count",
    ),
    Mistake(
        "14-distilling-to-one-bit",
        "states",
        """
        def state_loss(student, teacher, mask):
            keep, total = mask.bool(), 0.0
            for s, t in zip(student, teacher):
                total = total + (s - t).square().sum(-1)[keep].sum()
            return total / keep.sum()
        """,
        "Did you normalise both sides?",
    ),
    Mistake(
        "14-distilling-to-one-bit",
        "states",
        """
        def state_loss(student, teacher, mask):
            keep, total = mask.bool(), 0.0
            for s, t in zip(student, teacher):
                cosine = torch.nn.functional.cosine_similarity(s, t, dim=-1)
                total = total + (2 - 2 * cosine)[keep].sum() / len(student)
            return total / keep.sum()
        """,
        "Equation 8 adds layers up",
    ),
    Mistake(
        "14-distilling-to-one-bit",
        "alpha",
        """
        def effective_alpha(alpha, factor, T):
            return alpha * factor * T


        def factor_for(T):
            return 1 / T
        """,
        "the inverse",
    ),
    Mistake(
        "14-distilling-to-one-bit",
        "alpha",
        """
        def effective_alpha(alpha, factor, T):
            return alpha / factor


        def factor_for(T):
            return 1.0
        """,
        "has not divided by the T tokens",
    ),
    Mistake(
        "14-distilling-to-one-bit",
        "alpha",
        """
        def effective_alpha(alpha, factor, T):
            return alpha / (factor * T)


        def factor_for(T):
            return T
        """,
        "do not multiply",
    ),
    Mistake(
        "14-distilling-to-one-bit",
        "reach",
        """
        def reach(rates, beta1, beta2):
            return sum(rates)


        def may_flip(w, rates, beta1, beta2):
            return (w.abs() <= reach(rates, beta1, beta2)).double().mean().item()
        """,
        "Adam's steps can be longer",
    ),
    Mistake(
        "14-distilling-to-one-bit",
        "reach",
        """
        import math


        def reach(rates, beta1, beta2):
            total = 0.0
            for T in range(1, len(rates) + 1):
                a = [(1 - beta1) * beta1**k / (1 - beta1**T) for k in range(T)]
                c = [(1 - beta2) * beta2**k / (1 - beta2**T) for k in range(T)]
                total += max(rates) * math.sqrt(sum(x * x / y for x, y in zip(a, c)))
            return total


        def may_flip(w, rates, beta1, beta2):
            return (w.abs() <= reach(rates, beta1, beta2)).double().mean().item()
        """,
        "Did you take the peak for all?",
    ),
    Mistake(
        "14-distilling-to-one-bit",
        "reach",
        """
        import math


        def reach(rates, beta1, beta2):
            total = 0.0
            for T, rate in enumerate(rates, 1):
                a = [(1 - beta1) * beta1**k / (1 - beta1**T) for k in range(T)]
                c = [(1 - beta2) * beta2**k / (1 - beta2**T) for k in range(T)]
                total += rate * math.sqrt(sum(x * x / y for x, y in zip(a, c)))
            return total


        def may_flip(w, rates, beta1, beta2):
            return (w <= reach(rates, beta1, beta2)).double().mean().item()
        """,
        "compare |w|",
    ),
    Mistake(
        "15-one-bit-kernels",
        "binary",
        """
        def binary_product(a, b, n):
            ones = torch.tensor([bin(byte).count("1") for byte in range(256)])
            differ = ones[(a[:, None, :] ^ b[None, :, :]).long()].sum(-1)
            return 8 * a.shape[1] - 2 * differ
        """,
        "that counts the padding",
    ),
    Mistake(
        "15-one-bit-kernels",
        "binary",
        """
        def binary_product(a, b, n):
            ones = torch.tensor([bin(byte).count("1") for byte in range(256)])
            return n - ones[(a[:, None, :] ^ b[None, :, :]).long()].sum(-1)
        """,
        "n - 2 · 3",
    ),
    Mistake(
        "15-one-bit-kernels",
        "binary",
        """
        def binary_product(a, b, n):
            ones = torch.tensor([bin(byte).count("1") for byte in range(256)])
            return 2 * ones[(a[:, None, :] ^ b[None, :, :]).long()].sum(-1) - n
        """,
        "the sign is turned",
    ),
    Mistake(
        "15-one-bit-kernels",
        "binary",
        """
        def binary_product(a, b, n):
            ones = torch.tensor([bin(byte).count("1") for byte in range(256)])
            differ = ones[(a[None, :, :] ^ b[:, None, :]).long()].sum(-1)
            return n - 2 * differ
        """,
        "rows of a stand in the rows",
    ),
    Mistake(
        "15-one-bit-kernels",
        "tables",
        """
        def tables(x, k):
            minus = torch.arange(2**k) >> torch.arange(k - 1, -1, -1)[:, None] & 1
            return x.view(-1, k) @ (1 - 2 * minus).to(x.dtype)


        def table_product(x, bits, k):
            return tables(x, k).sum(0)
        """,
        "the least significant bit comes first",
    ),
    Mistake(
        "15-one-bit-kernels",
        "tables",
        """
        def tables(x, k):
            plus = torch.arange(2**k) >> torch.arange(k)[:, None] & 1
            return x.view(-1, k) @ (2 * plus - 1).to(x.dtype)


        def table_product(x, bits, k):
            return tables(x, k).sum(0)
        """,
        "entry 0 has no minus",
    ),
    Mistake(
        "15-one-bit-kernels",
        "tables",
        """
        def tables(x, k):
            minus = torch.arange(2**k) >> torch.arange(k)[:, None] & 1
            return x.view(-1, k) @ (1 - 2 * minus).to(x.dtype)


        def table_product(x, bits, k):
            wide = torch.zeros(8 * bits.shape[1], dtype=x.dtype)
            wide[: len(x)] = x
            y = torch.zeros(len(bits), dtype=x.dtype)
            for c, table in enumerate(tables(wide, k)):
                y += table[bits[:, k * c // 8].long() & (2**k - 1)]
            return y
        """,
        "where in it?",
    ),
    Mistake(
        "15-one-bit-kernels",
        "half",
        """
        def turn(words):
            return words ^ ((words >> 3 & 0x11111111) * 15)


        def half_lookup(T, stored):
            entry = T[stored & 7]
            return torch.where((stored & 8).bool(), -entry, entry)
        """,
        "leave the fourth as it is",
    ),
    Mistake(
        "15-one-bit-kernels",
        "half",
        """
        def turn(words):
            return words ^ ((words >> 3 & 1) * 7)


        def half_lookup(T, stored):
            entry = T[stored & 7]
            return torch.where((stored & 8).bool(), -entry, entry)
        """,
        "each group by itself",
    ),
    Mistake(
        "15-one-bit-kernels",
        "half",
        """
        def turn(words):
            return words ^ ((words >> 3 & 0x11111111) * 7)


        def half_lookup(T, stored):
            return T[stored & 7]
        """,
        "the sign is missing",
    ),
    Mistake(
        "15-one-bit-kernels",
        "batch",
        """
        import math


        def speedup(B, beta, C, C1):
            return max(4 / beta, 2 * B / C) / max(1 / beta, 2 * B / C1)


        def last_batch(ratio, beta, C, C1):
            return math.inf
        """,
        "a bit is an eighth of a byte",
    ),
    Mistake(
        "15-one-bit-kernels",
        "batch",
        """
        import math


        def speedup(B, beta, C, C1):
            return 4 / beta / (1 / (8 * beta))


        def last_batch(ratio, beta, C, C1):
            return math.inf
        """,
        "the slower of memory and arithmetic counts",
    ),
    Mistake(
        "15-one-bit-kernels",
        "batch",
        """
        import math


        def speedup(B, beta, C, C1):
            return max(4 / beta, 2 * B / C) / max(1 / (8 * beta), 2 * B / C1)


        def last_batch(ratio, beta, C, C1):
            if C1 / C >= ratio:
                return math.inf
            B = 1
            while speedup(B, beta, C, C1) >= ratio:
                B += 1
            return 0 if B == 1 else B
        """,
        "the LAST batch that still reaches it",
    ),
    Mistake(
        "16-the-scoreboard",
        "front",
        """
        def pareto(points):
            return [
                i
                for i, (s, l) in enumerate(points)
                if not any(t < s and m < l for t, m in points)
            ]
        """,
        "no worse and smaller is enough",
    ),
    Mistake(
        "16-the-scoreboard",
        "front",
        """
        def pareto(points):
            kept, best = [], float("inf")
            for i in sorted(range(len(points)), key=lambda i: points[i]):
                if points[i][1] < best:
                    kept.append(i)
                    best = points[i][1]
            return sorted(kept)
        """,
        "do not dominate each other: both stay",
    ),
    Mistake(
        "16-the-scoreboard",
        "front",
        """
        def pareto(points):
            kept = []
            for i in sorted(range(len(points)), key=lambda i: points[i]):
                if not kept or points[i][1] < points[kept[-1]][1] or points[i] == points[kept[-1]]:
                    kept.append(i)
            return kept
        """,
        "in ascending order, please",
    ),
    Mistake(
        "16-the-scoreboard",
        "bytes",
        """
        def matrix_bytes(rows, columns, bits, group, zero):
            groups = 1 if group is None else columns // group
            return rows * (-(-columns * bits // 8) + groups * (2 + zero))


        def most_bits(rows, columns, budget, group, zero):
            fits = [b for b in range(1, 9) if matrix_bytes(rows, columns, b, group, zero) <= budget]
            return max(fits, default=None)
        """,
        "a group of 64 and one of 36",
    ),
    Mistake(
        "16-the-scoreboard",
        "bytes",
        """
        def matrix_bytes(rows, columns, bits, group, zero):
            groups = 1 if group is None else -(-columns // group)
            return -(-rows * columns * bits // 8) + rows * groups * (2 + zero)


        def most_bits(rows, columns, budget, group, zero):
            fits = [b for b in range(1, 9) if matrix_bytes(rows, columns, b, group, zero) <= budget]
            return max(fits, default=None)
        """,
        "the next row begins with a new byte",
    ),
    Mistake(
        "16-the-scoreboard",
        "bytes",
        """
        def matrix_bytes(rows, columns, bits, group, zero):
            groups = 1 if group is None else -(-columns // group)
            return rows * (-(-columns * bits // 8) + groups * (2 + zero))


        def most_bits(rows, columns, budget, group, zero):
            bits = 8 * budget // (rows * columns)
            return bits if bits >= 1 else None
        """,
        "the scales come on top",
    ),
    Mistake(
        "16-the-scoreboard",
        "apart",
        """
        def t_value(a, b):
            error = (statistics.variance(a) + statistics.variance(b)) ** 0.5
            return (statistics.mean(a) - statistics.mean(b)) / error


        def verdict(a, b):
            t = t_value(a, b)
            return "not told apart" if abs(t) <= 3 else "a" if t > 0 else "b"
        """,
        "divide each variance by the number of its seeds",
    ),
    Mistake(
        "16-the-scoreboard",
        "apart",
        """
        def t_value(a, b):
            error = (statistics.pvariance(a) / len(a) + statistics.pvariance(b) / len(b)) ** 0.5
            return (statistics.mean(a) - statistics.mean(b)) / error


        def verdict(a, b):
            t = t_value(a, b)
            return "not told apart" if abs(t) <= 3 else "a" if t > 0 else "b"
        """,
        "divide the sum of squares by n - 1",
    ),
    Mistake(
        "16-the-scoreboard",
        "apart",
        """
        def t_value(a, b):
            error = (statistics.variance(a) / len(a) + statistics.variance(b) / len(b)) ** 0.5
            gap = statistics.mean(a) - statistics.mean(b)
            if error == 0:
                return 0.0 if gap == 0 else math.copysign(math.inf, gap)
            return gap / error


        def verdict(a, b):
            if min(len(a), len(b)) < 2:
                return "a" if statistics.mean(a) > statistics.mean(b) else "b"
            t = t_value(a, b)
            return "not told apart" if abs(t) <= 3 else "a" if t > 0 else "b"
        """,
        "a single seed has no spread",
    ),
]
