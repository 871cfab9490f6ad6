"""The grids of the iq1, iq2 and iq3 formats: which points a code of four or eight weights can stand for.

    grid      points  coordinates  each of
    IQ2_XXS   256     8            8 25 43
    IQ2_XS    512     8            8 25 43
    IQ2_S     1024    8            8 25 43
    IQ3_XXS   256     4            4 12 20 28 36 44 52 62
    IQ3_S     512     4            1 3 5 7 9 11 13 15
    IQ1       2048    8            -1 0 1

A point is a number in base 3 or 8, whose digits say which of these its coordinates are, the first one the lowest. ggml
numbers the points of a grid in the order of these numbers, so a grid is a set: here a string of bits, one for each
number, the highest bit of a byte first, as zlib makes it shorter and base 85 writes it. Source of the sets:
ggml-common.h.
"""

from __future__ import annotations

import base64
import zlib
from typing import TYPE_CHECKING

import numpy as np

from diffuzz.formats import bits
from diffuzz.formats.arrays import AnyArray, ArrayModule

if TYPE_CHECKING:
    from jaxtyping import Int32

_ONE, _TWO = (-1, 0, 1), (8, 25, 43)
_THREE, _THREE_XXS = (1, 3, 5, 7, 9, 11, 13, 15), (4, 12, 20, 28, 36, 44, 52, 62)


def _grid(levels: tuple[int, ...], width: int, text: str) -> Int32[np.ndarray, "points width"]:
    found = np.unpackbits(np.frombuffer(zlib.decompress(base64.b85decode(text)), np.uint8))
    numbers = np.flatnonzero(found)[:, None] // len(levels) ** np.arange(width)
    return np.asarray(np.array(levels, np.int32)[numbers % len(levels)])


IQ2_XXS = _grid(
    _TWO,
    8,
    "c-nPRORj`4470MbdWwiuj~R8vF<3s$DPNNQV8mEdDvh1mfzMz4@MsNM4-kL~Dg?0u3Z<Q}s#5&i%a^YL7=qILyw)W4Cso8iRnlpCLd`c4Du;C<"
    "RlH?aajd+e<FY7)k8>WSTt@47wX1jPqB41q=2e+&9hy;#r#nzQ(d`wV2I-N(E<X_7hks$x7)Do8!;TEvZcdv+$;Bf*s-;99+U-&7)=?KnsoS&M"
    "%ZZjW8ztGaG<oin^)>q~!#84@<5Q?C;cAe-jqH$lW6s<jvF<nQc*Z$~yKl@H%B$)D{-`Y{-_v~Aze0c0{sHUUCpi",
)
IQ2_XS = _grid(
    _TWO,
    8,
    "c-mc2ORj`4470L|dWwh@;*?QWh*MOoP)|Aew9xme83;|{*iP^L>UVu^J$f&9<)%0;rYcZH@zkTcz*1-`0#F4vd)cqIa~EY0S(m36us~sl4e+uq"
    "nt+xnD5p1ifdk&k2^cqyDKl&hVwLuN#<u{Y#82-D2r2AS*#~B;6>b%zZ?$An2Qav5OyP;?IjC1*OUa>YNXBOJs!l*N%2M9ag1pZ#qbS<pDODX)"
    "Ys@FiGwcn?g7z}ZUJ85J?WuXe7)kq!xj_MC=sehbo`f6hw91-EjVApg;SBK(#S-ctqy5bslAAu_xaBeODLPcR%XL4jpOCvsj1dP@iIwgyVBr<u"
    "BI!nKMuUZZ1qQNNP<bV}FGN4KvRv{ky>(2~*Gt;x6q$P={6Cb#@3Dfxx_wWh`vWo0U*P",
)
IQ2_S = _grid(
    _TWO,
    8,
    "c-n1JOKt@r42!agI0c#&;*=39#3>LflvCCTO#7-9jpk=;Y=fB%TefG%OIlXuE_Fz<Ougf=%xu>+l3Bq8hyjg~lMrunmZ<Wy`~YGiEi#3On5vBd"
    "<vmKZSi%aW(psKWGWlAsphF>8rUC+;ZDfa(=s@_F#i0yss$-8fvv#Vf@jNV{kuiVLgA~66J1A2@4RVJKUxH}IH-$JpaZ^g})pmKjjd>lmojtPq"
    "GOJ!xqXVV(I)s3f1HneH&<4|id_Zsqi~d9|fZw$~1nHWO$bgs-@JBFei6qb36Asxo<#s4;BRhd~d<sfnbhG0<$t^)oE$@gK%zO1xyELVB%s1k`"
    "FAKZeJ@WjCtPZ6s4%XC=!ChZ<C{I5t%jB|RQ$q0^0H^%ZVVCdNfJ9HPfzZdmWSrg_I({bPgptf%^rJMcpz`hTS7u<>s9rVvW-WSa`T|j+oGk",
)
IQ3_XXS = _grid(
    _THREE_XXS,
    4,
    "c-l=-K?=h#3{ye}VW$qZd!FLL9+1HvWO^EVh1sdkoaHp#R7#szmgHo6m{j1}>~2z^o7e*jro|>W6f;suxGq5ThwwrH-tdy3S=*8VCKknJ;ww~x"
    "N=C-Lt2kc1f`n?I#<sN&{qc;xi`rsIog^>xCi>0vO72GEj+P?`#G30*;dkafo0(MD70~26E5oy)Fh-PS2J_iYxE!Gh>5A3e2Aw8l#Lz*UZ2xyz"
    "&!sE!Xy7=t?heopubnm$;UMyR4j1Wf!f;*xLWT6+u!rw*Hy!tqyDZ17JdzPtf@!~_J7yrh&WtZi",
)
IQ3_S = _grid(
    _THREE,
    4,
    "c-k#dK}rKb5Ud?m7(7iN59ovqtiR~U2pdlmS^v`sIn3TR;sZue5Z@6$Amj-`@D=vV+J}a&>aMEU{rNq)_mDQ1)6rXa`g-zl6)-xV9&D<-%sLtw"
    "(&E+K!8jAZAn=FIh`{BX?s3iZ9eL!0y{saQwa{i<M_rV8i?Gza!ZNf5Tx$=B>&%}&x2aFnb2>I1DZfG3@eJJ?w}Hf9jj>U<u}qaX$V(Q{%bJZi"
    "0qBwX8+P2=0D&xpG^*kpx3aC_+^woo1gDy;frCMb5s>PfCelExhl@Z5=M_J&lZwQK<TIaOt1Nd_t_Z4Nkqr(Irw~QLK*sjOloy2EUU#sN3YKfv"
    "LC9pG+yhGG#kO><KBF1{I~{B$E!8AqIlE}-BNQAl`R33C|JNFjj93D(#a!oZudm_a(c~OHe<Yb)Y4R?AVbTWv01QA~hX",
)
IQ1 = _grid(
    _ONE,
    8,
    "c-k#eO>0z16uqyx#k83y_qA0qE*kA7fk#%6iL;cd<W&+S(JE7AEBc6nlGQ*KX*Z#@1057+gows$6w-}Cbfte_m;o2UY|_#*VZa~*x^U%6T=`Mm"
    "&aUdhx#ygF&eKOplgaU0)cQ?aLaWb`!=%}lC@i-gZEZ5CFdhU_><`D{U2pdIZAiiRBZ^Tjpc--1mjt-&r-O_l7bZy)3*%3zRUeyRXfJ~s5?<5P"
    "M<UK4aB<I3L}>n{hnc{+>K$G67mn>zvR$=UOtZPa7LUsmQWQ2bN)ou!Kj_yfb~LQyR=nku)`P+=g=?+GNRyF#AueD^;Yg67k)HG=(os>Uh!rG~"
    "(gRxZza2HhyPsM)=qh9|ehXUldkU;_wA!C+2Fv`rcq!34!0Fqz%0;&7#XeAmBu`}t6ci#>+3WlSwzITy{$0C$RU8lhlWkibbyz6nxOL=l|4%yA"
    "AJ4G^LV^S*V!(*CwdNU%)Qrh$#q9cyW*tq|@QQ}j896#XTv`6q5lhc&*LLPVeEGcad$xT4&D*b^FV9bJ+^}ih*A`2jX2rIue$9q9{)`S!jt!g="
    "X1D{vGEMnukjj}Wcvs!oqc~_d61@aP1V3Bvcjc9uWpgt6=l#-;vm1GpU-HX*>(|GJ!F2C{R9{8qA7trFiLFJ0VD+S2Ny_0+jiaiUvPbU!Gt<44"
    "HyL$nQ%A{iI)xZW(;0iU=zRoe)YSg8LFF!L&Ei&Q)FngSxd==b)ez8IIEAq?gCPR1z1`cE#svx$dBcgrdMr~`+vY{G*{j)LdH7J(;|V_S3+rEq"
    "j0{aUGZ~5`z3=#nUT2ypkIbf^7Qd%#dKF#22&cWI$B=(k{y*i-P-%7a6aqltG8tC11XWn$8wuQe)#`Rb$ezM@h+=MX6ehv4>@KW-1MD8)wE",
)
# The signs of eight weights for each index of seven bits: the eighth makes the number of minus signs even.
EVEN = np.array([index | (index.bit_count() & 1) << 7 for index in range(128)], np.int32)


def signed(
    points: Int32[np.ndarray, "points width"],
    index: Int32[AnyArray, "b 256/width"],
    signs: Int32[AnyArray, "b 32"],
    xp: ArrayModule,
) -> Int32[AnyArray, "b 256"]:
    """The coordinates of the points with these numbers; element 8 i + j is negative where bit j of signs[i] is set."""
    size = xp.asarray(points)[index].reshape(len(index), 32, 8)
    minus = (signs[:, :, None] >> xp.arange(8, dtype=xp.int32)) & 1
    return (size * (1 - 2 * minus)).reshape(len(index), 256)


def shifted(
    index: Int32[AnyArray, "b 32"], shift: Int32[AnyArray, "b shifts"], xp: ArrayModule
) -> Int32[AnyArray, "b 256"]:
    """Eight times the coordinates of the points of IQ1, moved by +1/8 or, where ``shift`` is 1, by -1/8."""
    move = xp.repeat(1 - 2 * shift, 256 // shift.shape[1], axis=1)
    return 8 * xp.asarray(IQ1)[index].reshape(len(index), 256) + move


def words(raw: AnyArray, xp: ArrayModule) -> Int32[AnyArray, "b words"]:
    """Bytes as numbers of 16 bits, the low byte first."""
    value = bits.integers(raw, xp)
    return value[:, 0::2] | (value[:, 1::2] << 8)


def raw_words(numbers: Int32[np.ndarray, "b words"]) -> np.ndarray:
    """Inverse of ``words``: uint8[b, 2 words]."""
    return np.ascontiguousarray(numbers.astype("<u2")).view(np.uint8)
