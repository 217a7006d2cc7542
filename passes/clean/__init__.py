"""Passes that leave the meaning of a program alone and make its text shorter.

They bring a traced program into canonical form: one operator, with all its arguments, for one
meaning. Every later pass may rely on that form.
"""
