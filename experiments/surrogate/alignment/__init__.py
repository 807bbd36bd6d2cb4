"""Do the coordinates of the codes agree with what is measured?"""
