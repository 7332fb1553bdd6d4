"""The table of normal doses, a row for each region of the body: `configs/dose-reference.yaml`.

A row says which CTDIvol is normal for a patient of which water-equivalent diameter. For other sizes the
normal size-specific dose grows: SSDE_ref(Dw) = CTDIvol f(diameter) exp(growth (Dw - diameter)), f of AAPM
Report 204 for the phantom of the row. Normal is what half of the sites reach (achievable dose, median), not a
diagnostic reference level, which is the upper quarter.
"""

from typing import Annotated, Final, Literal, get_args

from pydantic import Field, StringConstraints, model_validator

from dicomnode.checked import Name, Section

Region = Literal["extremity", "abdomen-pelvis", "chest", "neck", "head"]
"""The regions that `physics.anatomy` tells apart."""

MOST_MGY: Final = 500.0
"""No row says more: nobody calls that normal."""

STAND_IN: Final[Region] = "abdomen-pelvis"
"""The row that stands in for an extremity the table does not hold: its growth makes it small for a limb."""


class RegionReference(Section):
    """A normal dose: CTDIvol (mGy, on the phantom named) of an adult of this diameter; who says so."""

    region: Region
    phantom_cm: Literal[16, 32]
    ctdivol_mgy: Annotated[float, Field(gt=0, le=MOST_MGY, allow_inf_nan=False)]
    diameter_mm: Annotated[float, Field(ge=80, le=450)]
    growth_per_cm: Annotated[float, Field(ge=-0.1, le=0.2)]
    source: Annotated[str, StringConstraints(strip_whitespace=True, min_length=10, max_length=400)]


_REGISTRY: Final = (
    "Achievable dose (median) for adults in the US dose index registry, Kanal et al., Radiology 284, 2017."
)
_AT_SIZE: Final = (
    "The diameter is this project's estimate of an average adult. Growth: exposure control raises CTDIvol by "
    "7 to 10 % per centimetre, while the factor f falls by 3.7 %."
)

_ROWS: Final = (
    RegionReference(
        region="head",
        phantom_cm=16,
        ctdivol_mgy=49.0,
        diameter_mm=175.0,
        growth_per_cm=0.0,
        source=f"{_REGISTRY} Head without contrast. The diameter is this project's estimate.",
    ),
    RegionReference(
        region="neck",
        phantom_cm=32,
        ctdivol_mgy=15.0,
        diameter_mm=175.0,
        growth_per_cm=0.048,
        source=f"{_REGISTRY} Neck with contrast. {_AT_SIZE}",
    ),
    RegionReference(
        region="chest",
        phantom_cm=32,
        ctdivol_mgy=9.0,
        diameter_mm=270.0,
        growth_per_cm=0.048,
        source=f"{_REGISTRY} Chest without contrast. {_AT_SIZE}",
    ),
    RegionReference(
        region="abdomen-pelvis",
        phantom_cm=32,
        ctdivol_mgy=12.0,
        diameter_mm=270.0,
        growth_per_cm=0.048,
        source=f"{_REGISTRY} Abdomen and pelvis with contrast. {_AT_SIZE}",
    ),
)


class DoseReference(Section):
    """What counts as a normal dose; its version is written into every report."""

    version: Name = "registry-2017-achievable-regions"
    regions: tuple[RegionReference, ...] = _ROWS

    @model_validator(mode="after")
    def _every_region_once(self) -> "DoseReference":
        told = [row.region for row in self.regions]
        for region in told:
            if told.count(region) > 1:
                raise ValueError(f"regions: '{region}' stands there {told.count(region)} times")
        for region in get_args(Region):
            if region != "extremity" and region not in told:
                raise ValueError(f"regions: '{region}' is missing; the table needs every region")
        return self

    def row(self, region: Region) -> RegionReference:
        """The row for a region; an extremity without one goes by size from abdomen and pelvis."""
        rows = {row.region: row for row in self.regions}
        return rows.get(region) or rows[STAND_IN]
