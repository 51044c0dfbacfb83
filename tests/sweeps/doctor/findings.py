"""What the tests ask of the findings of the doctor."""

from collections.abc import Iterable

from sweeps.engine.doctor.finding import Finding, Level


def levels(findings: Iterable[Finding]) -> set[Level]:
    return {finding.level for finding in findings}


def only(findings: list[Finding], check: str) -> Finding:
    """The one finding that is no `ok`; it says what, why and how."""
    bad = [finding for finding in findings if finding.level != "ok"]
    assert [finding.check for finding in bad] == [check], bad
    assert bad[0].what
    assert bad[0].why
    assert bad[0].cure
    return bad[0]
