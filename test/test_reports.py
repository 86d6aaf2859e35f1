# Copyright 2026 the robomd_ros authors
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""The reports: the table, the pictures and the page."""

import base64
from collections.abc import Iterable
from html.parser import HTMLParser
import json
from pathlib import Path
import re
from xml.etree import ElementTree

import cv2
import numpy as np
import pytest
from robomd_ros.conditions import Condition, Perturbation
from robomd_ros.diagnosis.failure_map import FailureMap
from robomd_ros.diagnosis.statistics import wilson
from robomd_ros.errors import UserError
from robomd_ros.reports import headline, map_image, map_table, radar_svg, write_report
from robomd_ros.rollouts import Ledger, RolloutRequest, RolloutResult
from robomd_ros.worlds.protocol import Outcome

RATES = {'red_table': (20, 20), 'big_cube': (17, 20), 'blue_cube': (9, 20), 'gray_robot': (4, 20)}


def row(name: str, failures: int, n: int, **others) -> dict:
    """Return one perturbation of a failure map."""
    return {'name': name, 'slot': f'{name.split("_")[-1]}.color', 'value': [1, 0, 0],
            'sentence': f'Change to {name}', 'n': n, 'failures': failures,
            'failure_rate': failures / n if n else None, 'interval': list(wilson(failures, n)),
            'search_mass': None, 'rank': None, 'invalid': 0, **others}


def a_map(rows: Iterable[dict], nominal: tuple[int, int] = (1, 20), **others) -> dict:
    """Return a failure map as its file holds it; the rows are in the order of their ranks."""
    rows = [{**entry, 'rank': place if entry['n'] else None}
            for place, entry in enumerate(rows, 1)]
    scene = row('nominal', *nominal, sentence='The nominal scene')
    return {
        'format': 'robomd_ros/failure_map', 'version': 1, 'created': '2026-11-23T16:00:00+00:00',
        'command': 'robomd diagnose --task lift --out DIR',
        'settings': {'task': 'lift', 'policy': 'builtin:lift', 'policy_digest': 'aa' * 32,
                     'catalogue': 'lift.yaml', 'catalogue_digest': 'bb' * 32, 'searcher': 'sweep',
                     'rollouts': 100, 'seed': 7, 'horizon': 100, 'parallel': 1, 'world': 'mujoco',
                     'model_digest': 'cc' * 32, 'fidelity': 'fast', 'renderer': 'egl'},
        'versions': {'robomd_ros': '0.1.0', 'mujoco': '3.9.0'},
        'budget': {'asked': 100, 'done': 100, 'invalid': 0},
        'nominal': {key: scene[key] for key in scene if key not in ('slot', 'value')},
        'perturbations': rows, 'conditions': [], 'invalid_reasons': {}, **others}


def four() -> dict:
    """Return a map of four perturbations."""
    return a_map(row(name, *counts) for name, counts in RATES.items())


def read(content: dict) -> FailureMap:
    """Return the map as its readers see it."""
    return FailureMap.from_json(json.dumps(content))


def frame(color: int, size: int = 84) -> np.ndarray:
    """Return a grey picture."""
    return np.full((size, size, 3), color, np.uint8)


def shows(page: 'Page', *args: int) -> bool:
    """Return whether the page shows frame(*args)."""
    data = cv2.imencode('.png', frame(*args))[1].tobytes()
    return f'data:image/png;base64,{base64.b64encode(data).decode()}' in page.images


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """Return a DIR with a map of four perturbations and no ledger."""
    (tmp_path / 'failure_map.json').write_text(json.dumps(four()))
    return tmp_path


def ledger(out: Path) -> Ledger:
    """Return the ledger in DIR, open for writing."""
    settings = {'rollouts': 100, 'policy_digest': '', 'model_digest': ''}
    return Ledger(out, settings, (), 'robomd diagnose', {})


def add(open_ledger: Ledger, *rollouts: tuple) -> None:
    """Add rollouts (names, trial, verdict, first frame, last frame) to a ledger."""
    for names, trial, verdict, first, last in rollouts:
        condition = Condition(tuple(Perturbation(name, f'{name}.color', (1.0, 0.0, 0.0), name)
                                    for name in names))
        request = RolloutRequest(f'{condition.label}/{trial}', condition, 0, trial)
        open_ledger.begin(request)
        open_ledger.end(
            RolloutResult(request, Outcome(verdict), 100, 2.5, first, last, executor='test'))


class Page(HTMLParser):
    """What a browser would load, and the text a person reads."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.links: list[str] = []
        self.images: list[str] = []
        self.ids: list[str] = []
        self.tags: list[str] = []
        self.text = ''
        self.feed(path.read_text('utf-8'))
        self.text = ' '.join(self.text.split())

    def handle_starttag(self, tag: str, attrs: list) -> None:
        """Note what the tag refers to."""
        attributes = dict(attrs)
        self.tags.append(tag)
        self.links += [attributes[key] for key in ('src', 'srcset', 'href', 'action', 'data')
                       if key in attributes]
        self.ids += [attributes['id']] if 'id' in attributes else []
        self.images += [attributes['src']] if tag == 'img' else []

    def handle_data(self, data: str) -> None:
        """Note the text."""
        self.text += data


# The table.

def test_table_ranks_and_counts():
    lines = map_table(read(four())).splitlines()
    names = [name for line in lines for name in re.findall(r'^ *\d* +(\w+) +\d+ / ', line)]
    assert names == ['nominal', *RATES]
    line = next(line for line in lines if 'big_cube' in line)
    low, high = wilson(17, 20)
    assert '17 / 20' in line and '85%' in line and f'{100 * low:.0f}–{100 * high:.0f}%' in line


def test_bars_of_the_table_are_as_long_as_the_interval():
    text = map_table(read(four()))
    width = len(re.search('0% +100%', text)[0])
    bar = re.search('blue_cube.*', text)[0]
    low, high = wilson(9, 20)
    lengths = bar.count('█'), bar.count('▓'), bar.count('░')
    assert np.cumsum(lengths) == pytest.approx(np.array([low, 9 / 20, high]) * width, abs=0.5)


@pytest.mark.parametrize('rows', [
    [],
    [row('red_table', 0, 0)],
    [row('red_table', 0, 0, invalid=12)],
    [row('red_table', 3_000_000_000, 4_000_000_000, search_mass=0.5)],
    [row(f'a_name_that_is_far_too_long_for_a_table_{i}', 1, 2, search_mass=0.01)
     for i in range(150)],
])
def test_table_fits_a_terminal(rows: list[dict]):
    content = a_map(rows, nominal=(0, 0))
    content['settings']['policy'] = 'robomimic:/' + 'a/very/long/path/' * 20
    lines = map_table(read(content)).splitlines()
    assert max(map(len, lines)) <= 96
    assert sum(bool(re.search(r'\d / \d', line)) for line in lines) == 1 + len(rows)


def test_table_says_what_was_not_tried():
    text = map_table(read(a_map([row('red_table', 0, 0), row('big_cube', 0, 0, invalid=3)])))
    assert re.search('red_table +0 / 0 +– +– +not tried', text)
    assert re.search('big_cube +0 / 0 +– +– +3 invalid', text)


def test_adaptive_rates_are_called_biased():
    content = four()
    assert 'biases' not in map_table(read(content))
    content['settings']['searcher'] = 'ppo'
    assert 'biases' in map_table(read(content))


@pytest.mark.parametrize(('rows', 'sentence'), [
    ([], 'No perturbation has a valid rollout yet'),
    ([row('a', 0, 0)], 'No perturbation has a valid rollout yet'),
    ([row('a', 3, 4)], 'a, the only perturbation tried, failed in 3 of 4 rollouts'),
    ([row('a', 3, 4), row('b', 4, 4), row('c', 2, 4)],
     '2 of 3 perturbations failed in more than half of their rollouts'),
    ([row('a', 3, 4), row('b', 0, 4), row('c', 0, 0)],
     '1 of the 2 perturbations tried failed in more than half of its rollouts'),
    ([row('a', 2, 4), row('b', 1, 4)], 'No perturbation failed in more than half of its rollouts; '
     'highest in the ranking is a, with 2 of 4'),
    ([row('a', 0, 4), row('b', 0, 4)], 'None of 2 perturbations failed in any rollout'),
])
def test_headline(rows: list[dict], sentence: str):
    assert headline(read(a_map(rows))) == sentence


def test_shares_are_not_rounded_to_never_and_always():
    text = map_table(read(a_map([row('a', 999, 1000), row('b', 1, 1000)])))
    assert re.search(r'999 / 1,000 +>99%', text) and re.search(r' 1 / 1,000 +<1%', text)


# The pictures.

def test_image_is_what_ros_wants_and_follows_the_map():
    image = map_image(read(four()))
    assert image.shape == (720, 960, 3) and image.dtype == np.uint8 and image.flags.c_contiguous
    assert (image == map_image(read(four()))).all()
    assert map_image(read(four()), 640, 480).shape == (480, 640, 3)
    others = [
        a_map([row(name, *counts) for name, counts in {**RATES, 'big_cube': (16, 20)}.items()]),
        a_map([row(name, *counts) for name, counts in RATES.items()], nominal=(5, 20)),
        {**four(), 'budget': {'asked': 100, 'done': 99, 'invalid': 0}},
    ]
    assert all((image != map_image(read(other))).any() for other in others)


def test_bars_of_the_image_are_as_long_as_the_rates():
    rows = [row('a', 100, 100), row('b', 50, 100), row('c', 0, 100), row('d', 0, 0)]
    red, _, blue = map_image(read(a_map(rows, nominal=(0, 0)))).astype(int).transpose(2, 0, 1)
    lengths = ((red > 180) & (red - blue > 60)).sum(axis=1)  # coloured pixels of each line
    full = lengths.max()
    starts = np.flatnonzero((lengths[1:] > 0) & (lengths[:-1] == 0)) + 3
    assert full > 500
    assert lengths[starts] == pytest.approx([full, full / 2], abs=4)


@pytest.mark.parametrize('content', [
    a_map([]), a_map([], nominal=(0, 0)), a_map([row('a', 0, 0)]), a_map([row('a', 1, 1)]),
    a_map([row('a', 1, 1), row('b', 0, 1, search_mass=1.0)]),
    a_map([row(f'$perturbation_{i}$', 10**9, 2 * 10**9) for i in range(300)]),
])
def test_pictures_of_unusual_maps(content: dict):
    assert map_image(read(content)).std() > 0
    assert ElementTree.fromstring(radar_svg(read(content))).tag.endswith('svg')


def test_radar_follows_the_map():
    plots = [radar_svg(read(content)) for content in (
        four(),
        a_map([row(name, *counts) for name, counts in {**RATES, 'big_cube': (2, 20)}.items()]),
        a_map([row(name, *counts, search_mass=0.25) for name, counts in RATES.items()]))]
    assert len({re.sub(rb'"[#m]?\w*"', b'', plot) for plot in plots}) == 3


# The page.

def test_page_needs_nothing_but_itself(out: Path):
    with ledger(out) as to:
        add(to, (['red_table'], 0, 'failure', frame(10), frame(20)))
    page = Page(write_report(out, {'nominal': np.zeros((8, 8, 3), np.uint8)}))
    assert page.links and all(link.startswith(('data:', '#')) for link in page.links)
    assert all(link[1:] in page.ids for link in page.links if link.startswith('#'))
    text = (out / 'report.html').read_text()
    assert not re.search(r'url\(|@import|https?:', text)
    assert not list(out.glob('.report*')) and not list(out.glob('*.tmp'))


def test_page_holds_the_whole_map(out: Path):
    page = Page(write_report(out))
    for name, (failures, n) in RATES.items():
        low, high = wilson(failures, n)
        for text in (name, f'Change to {name}', f'{failures} of {n}', f'{failures / n:.0%}',
                     f'{100 * low:.0f}–{100 * high:.0f}%'):
            assert text in page.text
    assert '2 of 4 perturbations failed in more than half of their rollouts.' in page.text
    assert '3 of 4 perturbations have an interval wholly above that' in page.text
    for text in ('robomd diagnose --task lift --out DIR', 'aa' * 32, 'mujoco 3.9.0', 'egl'):
        assert text in page.text


def test_page_says_what_is_missing_or_biased(out: Path):
    content = four()
    content['settings']['searcher'] = 'ppo'
    content['budget'] = {'asked': 100, 'done': 40, 'invalid': 3}
    content['invalid_reasons'] = {'solved_at_reset': 3}
    (out / 'failure_map.json').write_text(json.dumps(content))
    page = Page(write_report(out))
    assert 'The run is not finished: 40 of 100 rollouts' in page.text
    assert 'biases these rates' in page.text
    assert 'solved_at_reset 3' in page.text


def test_page_escapes_what_others_wrote(out: Path):
    attack = '<script>alert(1)</script>'
    content = a_map([row('red_table', 1, 2, sentence=attack)], command=f'robomd "{attack}"',
                    versions={attack: '"><img src=x>'}, invalid_reasons={attack: 2})
    content['settings']['policy'] = attack
    (out / 'failure_map.json').write_text(json.dumps(content))
    with ledger(out) as to:
        add(to, (['red_table'], 0, 'failure', frame(10), frame(20)))
    page = Page(write_report(out))
    assert page.tags.count('script') == 1
    assert attack in page.text
    assert all(link.startswith(('data:', '#')) for link in page.links)


@pytest.mark.parametrize('content', [
    a_map([]), a_map([], nominal=(0, 0)), a_map([row('a', 0, 0)], nominal=(0, 0)),
    a_map([row('a', 1, 1)]), a_map([row('a', 10**10, 2 * 10**10)]),
])
def test_page_of_unusual_maps(out: Path, content: dict):
    (out / 'failure_map.json').write_text(json.dumps(content))
    page = Page(write_report(out))
    assert headline(read(content)) in page.text
    assert all(entry['name'] in page.text for entry in content['perturbations'])


def test_pictures_come_from_scenes_then_from_the_ledger(out: Path):
    scene = np.random.default_rng(0).integers(0, 255, (256, 256, 3), np.uint8)
    with ledger(out) as to:
        add(to,
            (['red_table'], 0, 'success', frame(1), frame(2)),
            (['big_cube'], 0, 'success', frame(3, 64), frame(4)),
            (['big_cube'], 5, 'success', frame(5), frame(6)),
            (['big_cube'], 4, 'success', frame(7), frame(8)),
            (['big_cube', 'red_light'], 0, 'success', frame(9, 200), frame(10)))
    page = Page(write_report(out, {'red_table': scene}))
    large = max((source for source in page.images if 'image/png' in source), key=len)
    data = np.frombuffer(base64.b64decode(large.partition(',')[2]), np.uint8)
    assert (cv2.imdecode(data, cv2.IMREAD_COLOR)[..., ::-1] == scene).all()
    assert shows(page, 7)  # the largest, of the lowest trial
    assert not any((shows(page, 1), shows(page, 3, 64), shows(page, 5), shows(page, 9, 200)))
    assert page.text.count('no picture yet') == 3  # nominal, blue_cube, gray_robot


def test_frames_of_failures(out: Path):
    with ledger(out) as to:
        add(to, (['big_cube'], 0, 'success', frame(50), frame(51)),
            ([], 0, 'failure', frame(60), frame(61)),
            *((['big_cube'], trial, 'failure', frame(10 + trial), frame(20 + trial))
              for trial in (4, 3, 2, 1)))
    page = Page(write_report(out))
    assert all(shows(page, color) for color in (11, 12, 13, 21, 22, 23, 60, 61))
    assert not any(shows(page, color) for color in (14, 24, 51))


def test_stacked_conditions(out: Path):
    stacked = [{'perturbations': ['red_table', f'other_{i}'], 'n': 10 + i, 'failures': 10,
                'failure_rate': 10 / (10 + i), 'interval': list(wilson(10, 10 + i)), 'invalid': 0}
               for i in range(25)]
    (out / 'failure_map.json').write_text(json.dumps({**four(), 'conditions': stacked}))
    text = Page(write_report(out)).text
    assert 'red_table + other_19' in text and '10 of 29' in text and 'other_20' not in text
    assert 'the first 20 of 25' in text


def test_report_is_replaced_whole(out: Path):
    path = write_report(out)
    assert path == out / 'report.html'
    path.write_text('old')
    assert write_report(out).read_text().startswith('<!doctype html>')


def test_report_while_the_ledger_is_written(out: Path):
    with ledger(out) as to:
        add(to, (['red_table'], 0, 'failure', frame(10), frame(20)))
        to.begin(RolloutRequest('open', Condition(), 0, 0))
        assert shows(Page(write_report(out)), 20)


@pytest.mark.parametrize('content', [
    None, 'not JSON', '{}', '[]', json.dumps({**four(), 'version': 99}),
    json.dumps({**four(), 'format': 'something else'}), json.dumps({**four(), 'nominal': 3}),
    json.dumps({**four(), 'settings': {}}),
])
def test_map_that_cannot_be_used(tmp_path: Path, content: str | None):
    if content is not None:
        (tmp_path / 'failure_map.json').write_text(content)
    with pytest.raises(UserError) as raised:
        write_report(tmp_path)
    message = str(raised.value)
    assert 'failure_map.json' in message and '\n' not in message
    assert not (tmp_path / 'report.html').exists()


def test_ledger_that_is_none(out: Path):
    (out / 'ledger.sqlite').write_text('not a database, but long enough to be taken for one' * 20)
    with pytest.raises(UserError, match=r'ledger\.sqlite'):
        write_report(out)


def test_page_that_cannot_be_written(out: Path):
    (out / 'report.html').mkdir()
    with pytest.raises(UserError, match=r'report\.html cannot be written'):
        write_report(out)
    assert {path.name for path in out.iterdir()} == {'failure_map.json', 'report.html'}
