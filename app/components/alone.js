// In a file of its own the data stands in the page.
new Strip(document.querySelector(".strip")).update(JSON.parse(document.getElementById("data").textContent), null);
