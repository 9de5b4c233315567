"""Looking at runs from outside, while they train and afterwards: lists, reports, what can be removed.

Nothing here changes a run but `cleaning`, and nothing that `seen` and `cleaning` import loads torch.
"""
