# Copyright 2026 the robomd_ros authors
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""The reports: the pictures and the page."""

import base64
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
import re
from xml.etree import ElementTree

import cv2
from maps import a_map, a_pair, a_set, changed, four, outwards, RATES, row, stack
import numpy as np
import pytest
from robomd_ros.conditions import Condition, Perturbation
from robomd_ros.diagnosis.failure_map import FailureMap, MapRow
from robomd_ros.diagnosis.statistics import confidence_sequence, wilson
from robomd_ros.errors import UserError
from robomd_ros.reports import findings, headline, map_image, radar_svg, write_report
from robomd_ros.rollouts import Ledger, RolloutRequest, RolloutResult
from robomd_ros.worlds.protocol import Outcome


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
    (tmp_path / 'failure_map.json').write_text(four().to_json())
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
        self.text += ' ' * (tag in ('small', 'td', 'th'))  # they stand apart
        self.links += [attributes[key] for key in ('src', 'srcset', 'href', 'action', 'data')
                       if key in attributes]
        self.ids += [attributes['id']] if 'id' in attributes else []
        self.images += [attributes['src']] if tag == 'img' else []

    def handle_data(self, data: str) -> None:
        """Note the text."""
        self.text += data


# The pictures.

def test_image_is_what_ros_wants_and_follows_the_map():
    image = map_image(four())
    assert image.shape == (720, 960, 3) and image.dtype == np.uint8 and image.flags.c_contiguous
    assert (image == map_image(four())).all()
    assert map_image(four(), 640, 480).shape == (480, 640, 3)
    others = [
        a_map(row(name, *counts) for name, counts in {**RATES, 'big_cube': (16, 20)}.items()),
        four(nominal=(5, 20)),
        four(budget={'asked': 100, 'done': 99, 'invalid': 0}),
    ]
    assert all((image != map_image(other)).any() for other in others)


def coloured(image: np.ndarray) -> np.ndarray:
    """Return how many pixels of each line have the colour of failure modes."""
    red, _, blue = image.astype(int).transpose(2, 0, 1)
    return ((red > 180) & (red - blue > 60)).sum(axis=1)


def test_bars_of_the_image_are_as_long_as_the_rates():
    lengths = coloured(map_image(a_map([row('a', 100, 100), row('b', 50, 100), row('c')],
                                       nominal=(0, 100))))
    full = lengths.max()
    inside = np.flatnonzero((lengths[8:] > 0) & (lengths[:-8] == 0)) + 12
    assert full > 500
    assert sorted({round(lengths[line] / full, 1) for line in inside}) == [0.5, 1.0]


def test_only_what_is_confirmed_is_filled():
    def area(*rows: MapRow, **others: object) -> int:
        return coloured(map_image(a_map(rows, nominal=(0, 40), **others))).sum()

    filled = area(row('a', 30, 40))
    hollow = area(row('a', discovery=(30, 40)))
    assert 0 < hollow < filled / 10
    assert 0 < area(row('a', 30, 40), stopped='') < filled / 10
    assert area(row('a', 3, 40)) == 0  # not shown


@pytest.mark.parametrize('known', [
    a_map([]), a_map([], nominal=(0, 0)), a_map([row('a')]), a_map([row('a', 1, 1)]),
    a_map([row('a', 1, 1), row('b', 0, 1, search_mass=1.0)]),
    a_map([row('a', 20, 20), row('b', discovery=(20, 20))]),
    a_map([row(f'$perturbation_{i}$', 10**5, 2 * 10**5) for i in range(300)]),
])
def test_pictures_of_unusual_maps(known: FailureMap):
    assert map_image(known).std() > 0
    assert ElementTree.fromstring(radar_svg(known)).tag.endswith('svg')


def test_radar_follows_the_map():
    plots = [radar_svg(known) for known in (
        four(), four(stopped=''),
        a_map(row(name, *counts) for name, counts in {**RATES, 'big_cube': (2, 20)}.items()),
        a_map(row(name, *counts, search_mass=0.25) for name, counts in RATES.items()))]
    assert len({re.sub(rb'"[#m]?\w*"', b'', plot) for plot in plots}) == 4
    assert [b'failure mode' in plot for plot in plots[:2]] == [
        True, False]


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


def put(out: Path, known: FailureMap) -> Page:
    """Put the map into DIR and return the page of it."""
    (out / 'failure_map.json').write_text(known.to_json())
    return Page(write_report(out))


def ends(interval: tuple[float, float]) -> str:
    """Return an interval as the page has it."""
    low, high = outwards(interval)
    return f'{low}–{high}%'


def test_page_holds_the_whole_map(out: Path):
    page = Page(write_report(out))
    for name, (failures, n) in RATES.items():
        for text in (name, f'Change to {name}', f'{failures} of {n}', f'{failures / n:.0%}',
                     ends(wilson(failures, n))):
            assert text in page.text
    assert headline(four()) in page.text and four().stopped in page.text
    for text in (*findings(four()), 'robomd diagnose --task lift --out DIR', 'aa' * 32,
                 'mujoco 3.9.0', 'egl'):
        assert text in page.text


def test_page_compares_with_nominal(out: Path):
    text = Page(write_report(out)).text
    for name in RATES:
        versus = next(each for each in four().perturbations if each.name == name).versus_nominal
        low, high = (f'{end:+}'.replace('-', '−') for end in outwards(versus.interval))
        p = 'p < 0.001' if versus.p_holm < 0.001 else f'p = {versus.p_holm:.3f}'
        assert f'{100 * versus.difference:+.0f} points {low} to {high} {p}, 20 pairs' in text
    assert text.count('failure mode ') >= 3 and 'not shown' in text


def test_page_keeps_discovery_apart(out: Path):
    text = put(out, a_map([row('both', 10, 20, discovery=(7, 9)),
                           row('hint', discovery=(8, 8))])).text
    assert f'50% {ends(wilson(10, 20))} 10 of 20' in text
    assert f'7 of 9 {ends(confidence_sequence(7, 9))}' in text
    assert f'suspected not confirmed – 8 of 8 {ends(confidence_sequence(8, 8))}' in text
    assert '(8 of 8, discovery)' in text
    assert '>discovery</th>' in (out / 'report.html').read_text()
    put(out, four())
    assert '>discovery</th>' not in (out / 'report.html').read_text()


def test_page_says_what_is_missing(out: Path):
    page = put(out, four(stopped='', budget={'asked': 100, 'done': 40, 'invalid': 3},
                         invalid_reasons={'solved_at_reset': 3}))
    assert 'The diagnosis has not ended' in page.text and 'there are no verdicts' in page.text
    assert f'100% {ends(confidence_sequence(20, 20))} 20 of 20' in page.text
    assert 'pairs' not in page.text
    assert 'solved_at_reset 3' in page.text


def test_page_has_suspicion_estimate_and_mass_if_measured(out: Path):
    rows = [row(name, *counts, suspicion=0.321, estimate=0.52, search_mass=0.123)
            for name, counts in RATES.items()]
    text = put(out, a_map(rows)).text
    heads = text[text.index('rank'):]
    assert 0 < heads.index('suspicion') < heads.index('failure rate')
    assert text.count('0.321') == text.count('0.123') == text.count('52%') == 4


def test_page_escapes_what_others_wrote(out: Path):
    attack = '<script>alert(1)</script>'
    known = a_map([row('red_table', 1, 2, sentence=attack)], command=f'robomd "{attack}"',
                  versions={attack: '"><img src=x>'}, invalid_reasons={attack: 2},
                  stopped=attack, minimal_sets=(a_set(attack, 'red_table'),))
    known = replace(known, settings={**known.settings, 'policy': attack})
    (out / 'failure_map.json').write_text(known.to_json())
    with ledger(out) as to:
        add(to, (['red_table'], 0, 'failure', frame(10), frame(20)))
    page = Page(write_report(out))
    assert page.tags.count('script') == 1
    assert attack in page.text
    assert all(link.startswith(('data:', '#')) for link in page.links)


@pytest.mark.parametrize('known', [
    a_map([]), a_map([], nominal=(0, 0)), a_map([row('a')], nominal=(0, 0)),
    a_map([row('a', 1, 1)]), a_map([row('a', 10**5, 2 * 10**5)]),
    a_map([row('a', discovery=(1, 1))], nominal=(0, 0)), four(stopped=''),
])
def test_page_of_unusual_maps(out: Path, known: FailureMap):
    page = put(out, known)
    assert headline(known) in page.text
    assert all(each.name in page.text for each in known.perturbations)


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
    stacks = tuple(stack('red_table', f'other_{i}', discovery=(10, 10 + i)) for i in range(25))
    text = put(out, four(conditions=(stack('a', 'b', counts=(5, 7)), *stacks))).text
    assert f'a + b 71% {ends(wilson(5, 7))} 5 of 7 –' in text
    assert (f'red_table + other_8 not confirmed 10 of 18 {ends(confidence_sequence(10, 18))}'
            in text)
    assert 'other_9' not in text and 'the first 10 of 26' in text
    text = put(out, four(conditions=stacks)).text  # there is no rate to show
    assert f'red_table + other_8 10 of 18 {ends(confidence_sequence(10, 18))}' in text


def test_rollouts_add_up(out: Path):
    known = a_map(
        [row('a', 12, 12, discovery=(5, 6)), row('b', discovery=(2, 4)), row('c')],
        nominal=(1, 32), conditions=(stack('a', 'b', counts=(6, 8), discovery=(1, 2)),
                                     stack('a', 'c', discovery=(3, 3))))
    text = put(out, known).text
    assert 'Planned beforehand52 32 of them nominal' in text
    assert "Searcher's choice15 5 of changes together" in text
    assert "Searcher's choice" not in put(out, four()).text


def test_minimal_sets_and_interactions(out: Path):
    pair = a_pair('red_table', 'big_cube', excess=0.5, interval=(0.196, 0.701),
                  verdict='more than its members')
    known = four(minimal_sets=(a_set('red_table', 'big_cube'),
                               a_set('a', 'b', 'c', shown=False)), interactions=(pair,))
    text = put(out, known).text
    assert f'red_table + big_cube 92% {ends(wilson(11, 12))} (11 of 12) all needed' in text
    assert f'a + b + c 92% {ends(wilson(11, 12))} (11 of 12) suspected' in text
    needed = known.minimal_sets[0].members[0].needed
    assert text.count(f'8% {ends(wilson(1, 12))} 1 of 12 '
                      f'{100 * needed.difference:+.0f} points') == 5  # as many members
    assert (f'red_table + big_cube 75% {ends(wilson(9, 12))} 9 of 12 25% +50 points +19 to +71 '
            'more than its members') in text
    without = put(out, four()).text
    assert 'What it takes to fail' not in without and 'Excess' not in without


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
    None, 'not JSON', '{}', '[]', changed(four(), version=1), changed(four(), version=99),
    changed(four(), format='something else'), changed(four(), nominal=3),
    changed(four(), settings={}),
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
