"""Examples run as documented, at small sizes."""

import numpy as np
import pytest

from examples import outdoor_uwb

pytestmark = pytest.mark.relaxed_promotion("examples are written for JAX's ordinary settings")


def test_the_outdoor_example_runs_and_says_where_its_pictures_are(tmp_path, capsys):
    result = outdoor_uwb.main(["--quick", "--out", str(tmp_path)])
    text = capsys.readouterr().out
    names = ["track_los_a1.png", "track_nlos_a1.png", "ess_and_evidence.png", "arc.png", "noise_levels.png"]
    for name in names:
        assert (tmp_path / name).stat().st_size > 5000
        assert name in text
    assert {s.recording for s in result.scores} == {"los_a1", "nlos_a1"}
    assert all(np.isfinite([s.rmse, s.nees, s.log_score, s.log_evidence]).all() for s in result.scores)
    # Twelve seconds near the anchors: half a metre is far above what any of the gated filters leaves.
    assert all(s.rmse < 0.5 for s in result.scores if s.method in ("particle filter", "EKF, gate 9", "UKF, gate 9"))


def test_the_recordings_are_read_as_their_readme_describes():
    recording = outdoor_uwb.load("los_a1")
    assert len(recording.anchors) == 4
    assert np.ptp(recording.anchors[:, :2], axis=0).max() < 3.0
    assert recording.truth[:, 1].max() == pytest.approx(50.0, abs=1.0)
    assert (np.diff(recording.log.times) >= 0).all()
