def coded_bytes(c,n):
    b={"16f":16,"32f":32}.get(c) or int(c); l={"1":2,"32f":0}.get(c,1)
    return (n*b+7)//8+4*l*-(-n//2048)
