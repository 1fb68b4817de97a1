"""The report page: its content, its security policy, and its plots in a real browser."""

import base64
import hashlib
import json
import os
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from pipeline.data.tracks import Tracks
from sfm.output.report_page import ReportContent, _runs, shared_points, write_report

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FRAMES, POINTS = 12, 300


def content(**changes: object) -> ReportContent:
    random = np.random.default_rng(0)
    seen = random.random((FRAMES, POINTS)) < 0.5
    frame, track = np.nonzero(seen)
    poses = np.tile(np.eye(3, 4), (FRAMES, 1, 1))
    poses[:, 0, 3] = np.linspace(0, 1, FRAMES)
    poses[7] = np.nan
    values = {
        "title": "Reconstruction: a </script> test",
        "warnings": ["1 of 12 frames has no pose <b>"],
        "facts": {"points": "300"},
        "tracks": Tracks(np.arange(100, 100 + FRAMES), frame, track, random.random((len(frame), 2)).astype(np.float32)),
        "points": random.normal(0, 1, (POINTS, 3)) + [0, 0, 5],
        "colors": random.integers(0, 255, (POINTS, 3)).astype(np.uint8),
        "cam_from_world": poses,
        "error_px": random.random(len(frame)),
        "coverage": random.random(FRAMES),
        "stages": [{"stage": "densify", "total_s": 90.0, "peak_memory_mb": 2048.0}],
    }
    return ReportContent(**(values | changes))  # type: ignore[arg-type]


def test_runs_of_true_are_found() -> None:
    assert _runs(np.array([True, True, False, True, False, False, True])) == [(0, 1), (3, 3), (6, 6)]
    assert _runs(np.zeros(3, bool)) == []


def test_shared_points_are_the_intersection_of_two_frames() -> None:
    tracks = content().tracks
    index, shared = shared_points(tracks)
    np.testing.assert_array_equal(index, tracks.frame_index)
    own = [set(tracks.track[tracks.in_frame(row)].tolist()) for row in range(FRAMES)]
    assert shared[2, 5] == len(own[2] & own[5]) and shared[3, 3] == len(own[3])
    np.testing.assert_array_equal(shared, shared.T)


def test_the_policy_comes_before_any_script_and_forbids_requests(tmp_path: Path) -> None:
    write_report(tmp_path / "report.html", content())
    page = (tmp_path / "report.html").read_text()
    policy = page[: page.index("<title>")].partition('http-equiv="Content-Security-Policy" content="')[2]
    assert policy.startswith("default-src 'none'; script-src 'sha256-")
    assert "http" not in policy and "script-src 'unsafe" not in policy


def test_text_is_escaped(tmp_path: Path) -> None:
    write_report(tmp_path / "report.html", content())
    page = (tmp_path / "report.html").read_text()
    assert "a &lt;/script&gt; test" in page and "no pose &lt;b&gt;" in page
    assert page.index("no pose") < page.index("Point cloud and cameras"), "warnings come first"
    assert "<td>densify</td><td>1.5</td><td>2.00</td>" in page


# Waits for the plots, hides the cameras with a click on the legend, exports the point cloud as the camera button does,
# tries requests that the policy has to block, and stores the results in the page.
PROBE = """
const errors=[];window.onerror=(m)=>errors.push(String(m));
const violations=[];
document.addEventListener('securitypolicyviolation',e=>violations.push(e.effectiveDirective+' '+e.blockedURI));
window.addEventListener('load',async()=>{
  const wait=(ms)=>new Promise(r=>setTimeout(r,ms));
  for(let i=0;i<100&&!document.querySelector('#graph .plot');i++)await wait(100);
  const before=document.getElementById('cloud').data.map(t=>t.visible);
  const names=[...document.querySelectorAll('#cloud .legendtext')];
  const target=names.find(n=>n.textContent==='cameras').closest('.traces').querySelector('.legendtoggle');
  for(const kind of ['mousedown','mouseup'])target.dispatchEvent(new MouseEvent(kind,{bubbles:true}));
  await wait(1500);
  const after=document.getElementById('cloud').data.map(t=>t.visible);
  const plots=document.querySelectorAll('.js-plotly-plot').length;
  const buttons=[...document.querySelectorAll('.modebar-btn')].map(b=>b.dataset.title);
  const links=[...document.querySelectorAll('a[href]')].map(a=>a.href);
  const canvas=!!document.querySelector('#cloud canvas');
  const asked=performance.getEntriesByType('resource').map(e=>e.name);
  const image=new Image();image.src=await Plotly.toImage('cloud',{format:'png',width:300,height:200});
  await image.decode();
  const paper=document.createElement('canvas').getContext('2d');
  paper.drawImage(image,0,0,300,150,0,0,300,150);
  const colours=new Set(new Uint32Array(paper.getImageData(0,0,300,150).data.buffer)).size;
  const own=violations.splice(0);
  await fetch('http://127.0.0.1:9/').catch(()=>0);
  new Image().src='http://127.0.0.1:9/';
  const injected=document.createElement('script');injected.textContent='errors.push("ran")';
  document.body.appendChild(injected);
  await wait(500);
  const result={buttons,links,plots,canvas,before,after,asked,errors,colours,own,forbidden:violations};
  const mark=document.createElement('pre');mark.id='probe';mark.textContent=JSON.stringify(result);
  document.body.appendChild(mark);
});
"""


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")
def test_the_page_draws_and_responds_to_clicks_in_a_browser(tmp_path: Path) -> None:
    assert CHROMIUM is not None
    page = tmp_path / "report.html"
    write_report(page, content())
    digest = base64.b64encode(hashlib.sha256(PROBE.encode()).digest()).decode()
    text = page.read_text().replace("script-src ", f"script-src 'sha256-{digest}' ", 1)
    page.write_text(text.replace("</head>", f"<script>{PROBE}</script></head>", 1))
    flags = "--headless --no-sandbox --use-angle=swiftshader --enable-unsafe-swiftshader --disable-quic --no-first-run"
    quiet = "--disable-background-networking --disable-component-update --disable-sync --virtual-time-budget=20000"
    where = (f"--user-data-dir={tmp_path / 'profile'}", "--dump-dom", page.as_uri())
    done = subprocess.run(
        [CHROMIUM, *flags.split(), *quiet.split(), *where],
        capture_output=True,
        text=True,
        timeout=240,
        env=os.environ | {"HOME": str(tmp_path)},
    )
    marked = done.stdout.partition('<pre id="probe">')[2].partition("</pre>")[0]
    assert marked, done.stderr[-2000:]
    result = json.loads(marked.replace("&amp;", "&"))
    assert result["plots"] == 5 and result["canvas"] and not result["errors"]
    assert not result["asked"] and not result["own"]
    assert not result["links"] and not [title for title in result["buttons"] if "loud" in title or "with" in title]
    assert len(result["buttons"]) > 5
    assert result["colours"] > 50, "the point cloud is drawn"
    assert {line.split()[0] for line in result["forbidden"]} == {"connect-src", "img-src", "script-src-elem"}
    assert result["before"][2] in (True, None) and result["after"][2] == "legendonly", "the click hides the cameras"
