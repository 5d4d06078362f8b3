import base64
import json

import pytest
import torch
from model_cases import TEXTS, cta_config

import modeling_textae as textae
from modeling_textae.evaluation.tokens import read_errors, token_errors, write_errors

pytestmark = pytest.mark.browser
CHROMIUM = ["/usr/bin/chromium", "/usr/bin/chromedriver"]


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Two checkpoints, one without grids, and the errors of the first."""
    folder = tmp_path_factory.mktemp("viewer")
    tokenizer = textae.CtaTokenizer.train(TEXTS * 20, 300)
    for name, levels in (("unfitted", 2), ("first", 2), ("second", 1)):
        torch.manual_seed(levels)
        model = textae.CtaModel(cta_config(vocab_size=len(tokenizer), num_levels=levels, num_blocks=None))
        if name != "unfitted":
            model.fit_latent_scale(torch.randn(100, 8))
        model.save_pretrained(folder / name)
        tokenizer.save_pretrained(folder / name)
    samples = torch.tensor(tokenizer(" ".join(TEXTS), add_special_tokens=False)["input_ids"][:40]).view(2, 20).numpy()
    decoded = samples.copy()
    decoded[0, 3], decoded[1, 5:9] = decoded[0, 4], decoded[1, 10]
    write_errors(folder / "errors.jsonl", token_errors(tokenizer, samples, decoded, 8))
    return folder


@pytest.fixture(scope="module")
def viewer(files):
    """The viewer on loopback, as its command serves it."""
    pytest.importorskip("gradio", reason="needs the extra viewer")
    from modeling_textae.evaluation import viewer

    names = [str(files / "first"), str(files / "second")]
    page = viewer.build_viewer(names, read_errors(files / "errors.jsonl"))
    yield viewer.serve(page, 0)
    page.close()


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    """Debian's Chromium without a window."""
    webdriver = pytest.importorskip("selenium.webdriver", reason="needs the extra browser")
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM[0]
    for flag in (
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-quic",
        "--no-first-run",
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-sync",
        "--window-size=1400,1200",
        f"--user-data-dir={tmp_path_factory.mktemp('chromium')}",
    ):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(CHROMIUM[1]))
    yield driver
    driver.quit()


def wait_for(browser, condition):
    """What a condition gives once it is true."""
    from selenium.webdriver.support.ui import WebDriverWait

    return WebDriverWait(browser, 60).until(lambda driver: condition())


def text_of(browser, name):
    return browser.find_element("id", name).text


def choose(browser, label, option):
    """Pick an option of the dropdown with a label."""
    browser.find_element("css selector", f"input[aria-label='{label}']").click()
    wait_for(browser, lambda: browser.find_elements("css selector", f"[role='option'][aria-label*='{option}']"))[
        0
    ].click()


def test_the_viewer_shows_errors_and_latents_in_a_browser(viewer, browser, files):
    address = viewer
    assert address.startswith("http://127.0.0.1:")
    errors = read_errors(files / "errors.jsonl")
    browser.get(address)
    wait_for(browser, lambda: "of 20 tokens wrong; 5 latents" in text_of(browser, "line"))
    # An untrained model gives back next to nothing: what is lost is coloured green, what is wrong red.
    colours = {
        name: {
            e.value_of_css_property("background-color")
            for e in browser.find_elements("css selector", f"#{name} .highlighted")
        }
        for name in ("original", "reconstruction")
    }
    assert any("42, 157, 74" in colour for colour in colours["original"]), colours
    assert any("214, 40, 57" in colour for colour in colours["reconstruction"]), colours
    words = errors[0]["text"].split()
    assert all(word in text_of(browser, "original").replace("\n", "") for word in words[:2])
    image = wait_for(browser, lambda: browser.find_elements("css selector", "#latents img"))[0].get_attribute("src")
    assert image.startswith("data:image/")
    assert len(base64.b64decode(image.split(",")[1])) > 1000

    choose(browser, "error case", "1: sample 1")
    wait_for(browser, lambda: errors[1]["text"].split()[-1] in text_of(browser, "original").replace("\n", ""))
    choose(browser, "checkpoint", "second")
    wait_for(browser, lambda: "10 latents" in text_of(browser, "line"))
    before = text_of(browser, "line")
    choose(browser, "bits a number is stored in", "2")
    wait_for(browser, lambda: text_of(browser, "line") != before)
    box = browser.find_element("css selector", "#own textarea, #own input")
    box.send_keys("an own text\n")
    wait_for(browser, lambda: "own" in text_of(browser, "original"))

    # Nothing is asked of another host.
    sent = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    asked = [m["params"]["request"]["url"] for m in sent if m["method"] == "Network.requestWillBeSent"]
    assert asked
    assert not [url for url in asked if url.startswith(("http", "ws")) and not url.startswith(address)]


def test_other_sites_are_not_answered_and_leave_nothing_large(viewer):
    import httpx

    assert httpx.get(f"{viewer}config", headers={"Host": "evil.example"}).status_code == 400
    upload = httpx.post(f"{viewer}gradio_api/upload", files={"files": ("file", b"x" * 1000)})
    assert upload.status_code >= 400


def test_an_unfitted_checkpoint_says_so(files):
    pytest.importorskip("gradio", reason="needs the extra viewer")
    from modeling_textae.evaluation import viewer

    assert viewer.inspect(str(files / "unfitted"), "text", viewer.UNROUNDED)
    with pytest.raises(ValueError, match="call fit_latent_scale"):
        viewer.inspect(str(files / "unfitted"), "text", "8")


def test_the_command_refuses_what_it_cannot_show(files, tmp_path, capsys):
    pytest.importorskip("gradio", reason="needs the extra viewer")
    from modeling_textae.evaluation import viewer

    textae.EncodzallConfig.nano().save_pretrained(tmp_path / "other")
    (tmp_path / "empty.jsonl").write_text("")
    (tmp_path / "broken.jsonl").write_text('{"sample": 1}\n')
    first, errors = str(files / "first"), str(files / "errors.jsonl")
    for checkpoint, path, message in (
        (first, tmp_path / "none.jsonl", "none.jsonl"),
        (first, tmp_path / "empty.jsonl", "has no error cases"),
        (first, tmp_path / "broken.jsonl", "line 1 is no error case"),
        (str(tmp_path / "other"), errors, "is no token autoencoder but encodzall"),
    ):
        assert viewer.main(["--checkpoint", checkpoint, "--errors", str(path)]) == 2
        assert message in capsys.readouterr().err
