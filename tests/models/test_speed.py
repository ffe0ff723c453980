import torch

from diffiml_plugin.models.speed import CountedOperators


def test_operators_that_only_look_are_not_counted():
    x = torch.ones(2, 3)
    with CountedOperators() as counted:
        (x.t().reshape(-1) + 1).relu_()
        x @ x.t()
    assert counted.launches == 4  # the copy that reshape needs, +, relu, and the product
    assert counted.values == 6 + 6 + 4  # of the product alone
