import pytest
import torch
from model_cases import TEXTS, cases
from peft import LoraConfig, PeftModel, get_peft_model


@pytest.mark.parametrize("case", cases(has_loss=True))
def test_lora_trains_saves_and_merges(case, tmp_path):
    base, inputs = case.model(), case.inputs(TEXTS)
    before = base(**inputs).loss.item()
    model = get_peft_model(base, LoraConfig(r=4, target_modules=list(case.lora_targets))).train()
    trainable = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.Adam(trainable, lr=2e-2)
    for _ in range(30):
        model(**inputs).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    model.eval()
    trained = model(**inputs)
    assert trained.loss.item() < 0.9 * before
    model.save_pretrained(tmp_path)
    loaded = PeftModel.from_pretrained(case.model(), tmp_path).eval()
    torch.testing.assert_close(loaded(**inputs).logits, trained.logits)
    merged = loaded.merge_and_unload()
    assert type(merged) is case.model_class
    torch.testing.assert_close(merged(**inputs).logits, trained.logits, atol=1e-4, rtol=1e-4)
