"""Other libraries' own interfaces over innerloop, each in a module that alone imports its library.

``innerloop.plugins.sklearn``: scikit-learn's estimators.
``innerloop.plugins.torch``: PyTorch's operators, modules and models.
"""
