"""The demo tells the truth about its own story, and picks up where it was left."""

from isthmus.cli.story import TARGET, tell
from isthmus.metrics import Accuracy, AttackSuccess


def test_the_demo_removes_its_backdoor_and_tells_the_same_story_again(tmp_path):
    story = tell(0, tmp_path)
    accuracy = Accuracy(story.evaluation)
    success = AttackSuccess(story.evaluation, story.judge.trigger, TARGET)
    assert accuracy(story.tampered) > 0.95 and success(story.tampered) > 0.9
    assert accuracy(story.found.model) > 0.95 and success(story.found.model) < 0.05
    again = tell(0, tmp_path).found
    assert again.t == story.found.t and accuracy(again.model) == accuracy(story.found.model)
