def loss_modelling(rows): return {}
def accuracy_by_sparsity(rows):
    import matplotlib; matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    return plt.figure()
