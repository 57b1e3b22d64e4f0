"""Pages of the two tiny books that test_book_ext builds."""

BIB = """
@inproceedings{xu2024, author = {Xu, Yuzhuang and Han, Xu}, title = {{OneBit}: Few Bits},
  booktitle = {A Conference}, year = {2024}, eprint = {2402.11295}}
@article{erdos1959, author = {Erd{\\H o}s, Paul}, title = {On Graphs}, journal = {A Journal},
  volume = {6}, pages = {290--297}, year = {1959}, doi = {10.1000/XYZ}}
"""

SVG = """<?xml version="1.0"?>
<svg xmlns="http://www.w3.org/2000/svg" width="200pt" height="100pt" viewBox="0 0 200 100">
<metadata>made today</metadata><defs><style type="text/css">*{stroke-linejoin: round}</style>
<clipPath id="p1"><rect width="9" height="9"/></clipPath></defs>
<g clip-path="url(#p1)"><path style="stroke: #0072b2"/><path style="fill: #767676"/></g></svg>"""

INTRO = """# A tiny book

```{bit-steps}
One matrix, five times.
```

```{parts}
- part: Numbers
  chapters:
  - [02_good, Good chapter, What is right.]
  - [03_later, Later chapter, Not written.]
```

See [the notes](notes.md).
"""

NOTES = """# Notes

> **Lemma A.1.** Letters number an appendix.

$$ a = b \\tag{A.1} $$

```{terms}
apple | 苹果 | A fruit with $x$ seeds. | 2
pear | 梨 | Another *fruit*.
```

```{api} qtools
:order: second first
```

```{bibliography}
:all:
:list: bullet
```
"""

GOOD = """# 2 Good chapter

> **What you will be able to do.**
> - read a box
>
> **Minutes.** 4 to read.
> **Before you start.** [Lemma A.1](notes.md#lemma-a-1).

## The question

> **Proposition 2.1 (Bound $s/2$; the paper's Proposition 1).** For all $x$
>
> $$
> \\begin{aligned}
> a &= b \\\\
> &= c
> \\end{aligned} \\tag{2.1}
> $$

<details><summary>Proof</summary>

By [Proposition 2.1](#proposition-2-1) *itself*,

$$
a = b, \\\\
b = c. \\tag{2.2}
$$

Done. □

</details>

> **Definition 2.2.** No name here. [Proposition 2.1](02_good.ipynb#proposition-2-1).

\\begin{align}
a &= b \\tag{2.3} \\\\
c &= d \\tag{2.4}
\\end{align}

> An ordinary quotation, **bold** later.

See [Xu et al. 2024](https://arxiv.org/pdf/2402.11295v4), [Erdős 1959](https://doi.org/10.1000/xyz)
and [a page](https://example.org). The [exercise](exercises/release/one/one.ipynb), the
[code](../qtools/first.py).

*Figure 2.1. What to see: $x$.*

*Emphasis* opens an ordinary paragraph.
"""

#: Page, its text, and what the build has to say about it.
BAD: list[tuple[str, str, list[str]]] = [
    (
        "04_numbers.md",
        "# 4 Numbers\n\n> **Lemma 4.1.** One.\n\n> **Lemma 4.1.** Again.\n\n"
        "> **Lemma 5.2.** Far.\n\n"
        "> **Theorem 4.** No number.\n\n*Figure 7.1. Elsewhere.*\n\n*Figure 4: colon.*\n",
        [
            "duplicate number: Lemma 4.1 is already in book/04_numbers",
            "Lemma 5.2 stands in chapter 4",
            "label 'Theorem 4.' should read",
            "Figure 7.1 stands in chapter 4",
            "caption 'Figure 4: colon.' should open",
        ],
    ),
    (
        "05_links.md",
        "# 5 Links\n\n[Lemma 4.9](04_numbers.md#lemma-4-9) [Lemma 4.2](04_numbers.md#lemma-4-1)\n\n"
        "[Lemma 5.1](#lemma-5-1) [gone](gone.md) [no code](../qtools/gone.py)\n",
        [
            "local id not found in doc 'book/04_numbers': 'lemma-4-9'",
            "link text 'Lemma 4.2' leads to 'lemma-4-1'",
            "cross-reference target not found: 'lemma-5-1'",
            "cross-reference target not found: 'gone.md'",
            "cross-reference target not found: '../qtools/gone.py'",
        ],
    ),
    (
        "06_folds.md",
        "# 6 Folds\n\n<details><summary>Proof</summary>\n\nOpen.\n\n## Next\n\n</details>\n\n"
        "<details><summary></summary>\n\nEmpty.\n\n</details>\n",
        ["this one is not closed", "'</details>' closes no fold", "a fold needs a summary"],
    ),
    (
        "07_tags.md",
        "# 7 Tags\n\n$$ a \\tag{7.1} $$\n\n$$ b \\tag{7.1} $$\n\n$$ c \\tag{8.1} $$\n\n"
        "$$ d \\tag{*} $$\n\n$$ e \\tag{7.2} \\tag{7.3} $$\n\n"
        "$$\n\\begin{align}\na &= b \\tag{7.4}\n\\end{align}\n$$\n",
        [
            "duplicate number: equation (7.1)",
            "equation (8.1) stands in chapter 7",
            "tag '*' should read like 3.2",
            "one display takes one \\tag",
            "'align' is an error inside $$",
            "\\tag inside an environment is an error",
        ],
    ),
    (
        "08_citations.md",
        "# 8 Citations\n\n[Li et al. 2024](https://arxiv.org/abs/2400.00001)\n"
        "[Xu et al. 2019](https://arxiv.org/abs/2402.11295)\n"
        "[Han et al. 2024](https://arxiv.org/abs/2402.11295)\n",
        [
            "cited work is not in the bibliography: https://arxiv.org/abs/2400.00001",
            "'Xu et al. 2019': xu2024 is of 2024",
            "'Han et al. 2024': xu2024's first author is Xu",
        ],
    ),
    (
        "notes.md",
        "# Notes\n\n> **Lemma 2.1.** A digit.\n\n"
        "```{terms}\npear | 梨 | B.\napple | 苹果 | A.\n```\n\n"
        "```{api} qtools\n```\n",
        [
            "Lemma 2.1 stands outside a chapter",
            "term 'apple' should stand before 'pear'",
            "qtools.first.undocumented has no docstring",
        ],
    ),
]

FIRST = '''
"""The first module: |x| < 2 and a*b*c."""
__all__ = ["Thing", "shown"]

def shown(x: int, /, *rest: float, axis: int = 0) -> int:
    r"""q = x * 2, for |x| <= 3 and [out, in] with ``a < b``.

    Parameters
    ----------
    x : int
        Shape ``[]``.

    Raises
    ------
    ValueError
        If x * 2 < 0.

    Examples
    --------
    >>> shown(1)
    2
    """

def hidden(): ...

@dataclass
class Thing:
    """A thing."""
    bits: int = 8

    @property
    def largest(self) -> int:
        """Largest code."""
'''
