"""What drives stores: transact, subscribe, project. It knows ports only."""
