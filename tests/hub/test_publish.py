import pytest
from huggingface_hub.errors import LocalTokenNotFoundError
from transformers import ViTImageProcessor

from fatr_hf.hub.publish import check_access, publish_folder


def test_publishing_needs_a_name_and_a_login(monkeypatch):
    with pytest.raises(ValueError, match="--push_to_hub needs --hub_model_id"):
        check_access(None)

    class LoggedOut:
        def whoami(self):
            raise LocalTokenNotFoundError("Token is required")

    monkeypatch.setattr("fatr_hf.hub.publish.HfApi", LoggedOut)
    with pytest.raises(PermissionError, match=r"Cannot publish to someone/vit-fatr.*hf auth login"):
        check_access("someone/vit-fatr")


def test_only_whole_folders_are_published(make_fatr, monkeypatch, tmp_path):
    published = []
    monkeypatch.setattr(
        "fatr_hf.hub.publish.upload_repository", lambda *arguments, **options: published.append((arguments, options))
    )
    make_fatr().save_pretrained(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"lacks preprocessor_config\.json"):
        publish_folder(tmp_path, "someone/vit-fatr")
    assert published == []
    ViTImageProcessor().save_pretrained(tmp_path)
    publish_folder(tmp_path, "someone/vit-fatr", private=True)
    assert published == [((tmp_path, "someone/vit-fatr"), {"private": True, "revision": None})]
