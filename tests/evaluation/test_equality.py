"""What equals what, kind by kind: exact values, decimals, bases, case, brackets, words, units, thousands."""

import pytest

from t3d.evaluation.boxed import compare

# By kind: gold answer, answer, whether they are equal.
PAIRS = {
    "escaped blank at the end": [
        ("5", r"5\ ", True),
        ("(1,2)", r"(1,2)\ ", True),
    ],
    "text in or out of \text": [
        (r"\text{7:15 a.m.}", r"7:15\text{ a.m.}", True),
        (r"\text{7:15 a.m.}", r"7:15\text{ p.m.}", False),
        (r"\text{March 9}", "March 9", True),
    ],
    "words with and without \text": [
        (r"\text{isosceles triangle}", "isosceles triangle", True),
    ],
    "full stop after a word": [
        (r"\text{Nora}", r"\text{Nora.}", True),
    ],
    "choice letter": [
        (r"\text{(B)}", "B.", True),
    ],
    "absolute tolerance, exact numbers": [
        (r"\frac{1}{2^{70}}", r"\frac{1}{2^{71}}", False),
    ],
    "absolute tolerance, sign": [
        (r"-\frac{1}{2^{70}}", r"\frac{1}{2^{70}}", False),
    ],
    "absolute tolerance, irrational": [
        (r"\frac{\pi}{10^{19}}", r"\frac{e}{10^{19}}", False),
    ],
    "absolute tolerance, exact powers": [
        (r"\left(\frac{5}{6}\right)^{210}", r"\left(\frac{5}{6}\right)^{211}", False),
    ],
    "absolute rounding of decimals": [
        ("0.0000412", "0.0000408", False),
        (r"6.63\times10^{-34}", r"1.2\times10^{-34}", False),
        ("0.0000412", r"4.12\times10^{-5}", True),
    ],
    "base ignored": [
        ("312_5", "312_6", False),
        ("7", "7_{8}", False),
    ],
    "base in parentheses": [
        ("312_5", "(312)_5", True),
    ],
    "base in \text": [
        ("312_5", r"312_{\text{5}}", True),
    ],
    "case of a variable": [
        ("3R^2", "3r^2", False),
        ("A-a", "a-A", False),
    ],
    "tuple against interval or list": [
        ("(8,-2)", "[8,-2]", False),
    ],
    "set against tuple": [
        (r"\{1,2\}", "(2,1)", False),
    ],
    "tuple against set": [
        ("(1,2)", r"\{1,2\}", False),
    ],
    "tie as a blank": [
        ("13", r"13~\text{cm}", True),
    ],
    "degree sign": [
        (r"90^\circ", "90°", True),
        (r"90^\circ", r"90\degree", True),
    ],
    "thousands inside an expression": [
        (r"\frac{20000}{\pi}", r"\frac{20{,}000}{\pi}", True),
        (r"20000\pi", r"20,000\pi", True),
    ],
    "plain mixed number": [
        ("3.5", "3 1/2", True),
    ],
    "one value against a list": [
        ("5", "5,5,5", False),
    ],
    "exact numbers": [
        (r"\frac{1}{1000!}", r"\frac{1}{1001!}", False),
        (r"\frac{1}{1000!}", r"\frac{1}{1000 \cdot 999!}", True),
        (r"\frac{1}{365^8}", r"\frac{1}{365^7}", False),
        ("2^{-80}", "2^{-81}", False),
        ("1-2^{-80}", "1-2^{-81}", False),
        ("2^{100}", "2^{100}+1", False),
        ("2^{1000000007}", "2^{1000000007}+1", False),
        (r"\frac{\pi}{10^{19}}", r"\frac{2\pi}{2\cdot10^{19}}", True),
        (r"\pi+2^{-300}", r"\pi+2^{-301}", False),
        (r"\sqrt{2}+\sqrt{3}", r"\sqrt{5+2\sqrt{6}}", True),
        (r"\sqrt{2}+10^{-30}", r"\sqrt{2}", False),
        ("0", r"\sqrt{2}+\sqrt{3}-\sqrt{5+2\sqrt{6}}", True),
        ("0", r"\frac{1}{10^{20}}", False),
    ],
    "exact numbers inside of others": [
        (r"(\frac{1}{2^{80}},3)", r"(\frac{1}{2^{81}},3)", False),
        (r"\{\frac{1}{2^{80}},3\}", r"\{3,\frac{1}{2^{80}}\}", True),
        (r"\{\frac{1}{2^{80}},3\}", r"\{3,\frac{1}{2^{81}}\}", False),
        (r"[0,\frac{1}{2^{80}}]", r"[0,\frac{1}{2^{81}}]", False),
        ("x+2^{-80}", "x+2^{-81}", False),
        ("x = 2^{-80}", "2^{-81}", False),
        (r"\begin{pmatrix} 2^{-80} \\ 1 \end{pmatrix}", r"\begin{pmatrix} 2^{-81} \\ 1 \end{pmatrix}", False),
        (r"\begin{pmatrix} 1/2 \\ 1 \end{pmatrix}", r"\begin{bmatrix} 0.5 \\ 1 \end{bmatrix}", True),
    ],
    "decimals": [
        (r"\frac{1}{3}", "0.333333", True),
        (r"\frac{1}{3}", "0.333", False),
        ("0.333333", r"\frac{1}{3}", True),
        (r"\frac{2}{3}", "0.666667", True),
        (r"\frac{2}{3}", "0.66667", False),
        (r"\frac{1}{3}", "0.3333333333333333", True),
        (r"\pi", "3.14159265", True),
        (r"\pi", "3.14", False),
        ("3.21", "3.2", False),
        ("5", "5.0", True),
        ("5.0", "5", True),
        ("0", "0.0", True),
        ("0", "0.0000001", False),
        ("0.0000001", "0.0000003", False),
        (r"3.0\times10^{-20}", r"3.1\times10^{-20}", False),
        (r"6.63\times10^{-34}", "6.63e-34", True),
        ("1234567", "1234568.0", False),
        ("(0.5,2)", r"\left(\frac12,2\right)", True),
        ("0.333333x", r"\frac{x}{3}", True),
        ("0.333x", r"\frac{x}{3}", False),
        (r"0.\overline{3}", r"\frac13", True),
        (r"\frac{1}{6}", r"0.1\overline6", True),
    ],
    "bases": [
        ("7_8", "7", False),
        ("1A3_{16}", "(1A3)_{16}", True),
        ("1A3_{16}", "1B3_{16}", False),
        ("10_2", "2", False),
        ("101_2, 11_2", "11_{2}, 101_{2}", True),
        ("101_2", "101_3", False),
        ("312_5", r"312_{\text{base }5}", True),
        ("2a_5", "2a_6", False),
    ],
    "case": [
        (r"\frac{a}{A}", r"\frac{A}{a}", False),
        ("R=5", "r=5", False),
        ("R", "r", False),
        ("friday", "Friday", True),
        (r"\text{Even}", "even", True),
        (r"\text{(C)}", "c", True),
    ],
    "brackets": [
        ("[8,-2]", "(8,-2)", False),
        ("(1,2)", "1,2", True),
        ("(1,2)", "2,1", False),
        ("1,2", "(2,1)", False),
        ("1,-2", "-2,1", True),
        ("1,2", r"\{2,1\}", True),
        (r"\{1,2\}", "[1,2]", False),
        (r"\{1,2,2\}", r"\{2,1\}", True),
        ("[0,1)", "[0,1]", False),
        ("(1,2),(3,4)", "(3,4),(1,2)", True),
        ("(1,2),(3,4)", "(2,1),(3,4)", False),
        (r"(0,9)\cup(9,36)", r"(9,36)\cup(0,9)", True),
        (r"(-\infty,2)\cup(2,\infty)", r"\mathbb{R}\setminus\{2\}", True),
        (r"\{1\pm\sqrt5,-2\}", r"\{-2,1-\sqrt5,1+\sqrt5\}", True),
        (r"\emptyset", r"\varnothing", True),
    ],
    "one value and several": [
        ("5,5", "5", False),
        ("5,5,5", "5,5", False),
        ("5", r"\{5\}", True),
        ("5", "(5)", True),
    ],
    "equations": [
        ("x=5", "x = 2+3 = 5", True),
        ("5", "y=5", True),
        ("2x+y=3", "4x+2y=6", True),
        ("y=2x+3", "2x-y+3=0", True),
        ("y=2x+3", "y=2x+4", False),
        ("x>3", "3<x", True),
        ("x>3", "x<3", False),
        ("x>3", "-x<-3", True),
        ("x>3", r"(3,\infty)", True),
    ],
    "words and numbers": [
        ("7:15 AM", "7:15am", True),
        ("2bc", "2cb", True),
        (r"\text{no}\text{ solution}", r"\text{no}", False),
        ("7", r"7^{\text{th}}", True),
        (r"\text{4:30 p.m.}", r"4:30 \text{ p.m.}", True),
        (r"4:30 \text{ p.m.}", r"4:30 \text{ a.m.}", False),
        (r"\text{4:30 p.m.}", "4:30 PM", True),
        ("4:30 pm", "4:30 am", False),
        (r"\text{June 20}", r"\text{June } 20", True),
        (r"\text{June 20}", "June 21", False),
        (r"\text{June 20}", "July 20", False),
        (r"\text{right triangle}", "Right triangle.", True),
        (r"\text{(C)}", "C)", True),
        (r"\text{(A)}", "B.", False),
        ("25", r"\text{25 dollars}", True),
        ("(6,31,-1)", r"\text{(6, 31, -1)}", True),
        (r"\text{Room 5}", "Room 5", True),
        (r"\text{Room 5}", "5", False),
    ],
    "units": [
        ("27000", "27000 dollars", True),
        (r"15\mbox{ cm}^2", "15 cm^2", True),
        ("60", r"60\text{ km}/\text{h}", True),
        ("(2,3)", r"(2,3)\text{ cm}", True),
        ("3", "3m", True),
        ("3m", "3", False),
        ("2c", "2d", False),
        ("x-d", "x", False),
        ("25", r"25^\circ\text{C}", True),
        ("5.4", "5.4¢", True),
    ],
    "thousands and other blanks": [
        ("x=10080", "x = 10 080", True),
        ("2,100", r"2 \quad 100", False),
        ("5", r"\(5\)", True),
        (r"\frac{1}{6}", r"\frac{0.\overline3}{2}", True),
        (r"\sin{30^\circ}", r"\sin 30^{\circ}", True),
        ("(1,200)", "1200", False),
        ("(1,200)", "(1, 200)", True),
        (r"\{1,200\}", "1200", False),
        ("1200", "1,200", True),
        ("20000,30000", "20,000, 30,000", True),
        ("(10000,5)", "(10,000, 5)", True),
        ("(1000,2)", "(1,000,2)", True),
        ("x,3,125", "3,125,x", True),
        (r"\frac{20000}{\pi}", r"\frac{20,000}{\pi}", True),
        ("1000x", "1,000x", True),
        ("x=1200", "x=1,200", True),
        ("10080", r"10\,080", True),
        (r"10,\!080", "10 080", True),
        (r"x^2\ ", "x^2", True),
        ("5", r"5\ .", True),
    ],
    "numbers side by side": [
        ("1", r"2(\frac12)", True),
        ("6", "(2)(3)", True),
        ("5", "(2)(3)", False),
        ("1", r"(2)\frac{1}{2}", True),
        ("3", r"\log_2(8)", True),
        ("1234.5", "1,234 1/2", True),
        ("(1,3.5)", "(1,3 1/2)", True),
        ("-3.5", "-3 1/2", True),
        ("5", "3 5/2", False),
        ("6", "2(3)", True),
        ("5", "2(3)", False),
        ("5", "2 3", False),
        ("-2+7i", r"-2+7\mathrm{i}", True),
    ],
    "arguments without braces": [
        (r"\frac{\sqrt3}{2}60", r"30\sqrt{3}", True),
        ("0", r"17\frac{\sqrt{3}-1}{2}60", False),
        (r"\frac{\pi}{2}", r"\frac\pi2", True),
        (r"\frac{1}{\pi}", r"\frac1\pi", True),
        (r"2\sqrt{3}", "2sqrt(3)", True),
        (r"\sqrt{\pi}", r"\sqrt\pi", True),
        ("10", r"\binom52", True),
        (r"\frac{1}{\sqrt{2}}", r"\sqrt\frac12", True),
    ],
}


@pytest.mark.parametrize(("gold", "answer", "equal"), [pair for pairs in PAIRS.values() for pair in pairs], ids=str)
def test_pairs(gold, answer, equal):
    assert compare(gold, answer) == (equal, "equal" if equal else "not equal")


@pytest.mark.parametrize(
    "answer", ["5", r"\frac{1}{3}", "x^2", r"\{1,2\}", r"\text{east}", "312_5", r"\oops 3", r"\frac{1}{0}"]
)
def test_every_answer_equals_itself(answer):
    assert compare(answer, answer)[0]
    assert compare(answer, f"{answer}.")[0]
