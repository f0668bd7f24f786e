addEventListener('fetch', e => e.respondWith(new Response("Hello World!")))
